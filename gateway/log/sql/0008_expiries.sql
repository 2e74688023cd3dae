-- When to look next whether a stream with an end has come to it. As for leases: it moves only when that time has come,
-- to where the stream's row says the end is by then, so that an append touches no index.

DROP INDEX run_gateway.streams_expiring;   -- first: it keeps others from making streams until this has been committed

CREATE TABLE run_gateway.expiries (
    stream   bigint PRIMARY KEY,         -- no foreign key, as for events
    check_at timestamptz NOT NULL,
    kept_until timestamptz               -- a read slides the end here while another transaction holds the stream's row
) WITH (fillfactor = 70);
INSERT INTO run_gateway.expiries (stream, check_at)
SELECT s.id, s.expires_at FROM run_gateway.streams s WHERE s.expires_at IS NOT NULL AND s.path IS NOT NULL AND NOT s.gone;
CREATE INDEX expiries_check_at ON run_gateway.expiries (check_at);

-- What a transaction of an application has written to and not committed yet: a row of its own for each stream with an
-- end or a lease, which goes as it commits: nobody else ever sees one.
CREATE TABLE run_gateway.under_way (
    stream bigint PRIMARY KEY
);

-- Soft-deleted sources that have lost their last fork while somebody held their rows.
CREATE INDEX streams_abandoned ON run_gateway.streams (id) WHERE gone AND forks = 0 AND path IS NOT NULL;

-- Every append leaves a dead row: of a large table, a fifth is too much to be dead before anybody cleans up.
ALTER TABLE run_gateway.streams SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05);

-- Roles that may append from their own transactions may go on doing so.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT a.grantee, string_agg(DISTINCT a.privilege_type, ', ') AS rights
          FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
         WHERE c.oid = 'run_gateway.streams'::regclass AND a.grantee <> c.relowner
           AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
         GROUP BY a.grantee
    LOOP
        IF given.rights ~ 'UPDATE' THEN
            given.rights := 'SELECT, INSERT, UPDATE, DELETE';
        END IF;
        EXECUTE format('GRANT %s ON run_gateway.expiries, run_gateway.under_way TO %s', given.rights,
                       CASE WHEN given.grantee = 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END);
    END LOOP;
END
$$;
