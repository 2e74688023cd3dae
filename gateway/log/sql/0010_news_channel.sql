-- Which channel news is told on. Its name is a secret: any role may notify, and listen, on a channel that it knows.
-- What comes on this one is believed; what comes on the channel `run_gateway`, which everybody knows, is a hint to look.

CREATE TABLE run_gateway.news_channel (
    one  boolean PRIMARY KEY DEFAULT true CHECK (one),
    name text NOT NULL
);
INSERT INTO run_gateway.news_channel (name) VALUES ('run_gateway_' || replace(gen_random_uuid()::text, '-', ''));

-- Default privileges may have given it to others, such as a role that makes reports of all tables.
DO $$
DECLARE
    holder oid;
BEGIN
    FOR holder IN SELECT DISTINCT a.grantee FROM pg_class c, aclexplode(c.relacl) a
                   WHERE c.oid = 'run_gateway.news_channel'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON run_gateway.news_channel FROM %s',
                       CASE holder WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(holder)) END);
    END LOOP;
END
$$;

-- Who may write events may tell of them. A barrier: no function in a caller's WHERE is shown the row before that is known.
CREATE VIEW run_gateway.channel WITH (security_barrier) AS
SELECT c.name FROM run_gateway.news_channel c
 WHERE c.one AND has_table_privilege('run_gateway.events'::regclass, 'INSERT');
GRANT SELECT ON run_gateway.channel TO PUBLIC;
