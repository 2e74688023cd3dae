-- What a reader of a live list goes on from. Each change of a run keeps its transaction, in the row that it writes anyway;
-- a reader keeps the snapshot that it was told of, and whatever that does not see has come since, in whatever order
-- transactions have committed.

ALTER TABLE run_gateway.runs
    ADD COLUMN created_by   xid8,  -- NULL: before there were live lists
    ADD COLUMN cancelled_by xid8,
    ADD COLUMN ended_by     xid8;
ALTER TABLE run_gateway.runs ALTER COLUMN created_by SET DEFAULT pg_current_xact_id();

-- By the last change: none can come before the one before it has committed, so who has seen it has seen them all.
CREATE INDEX runs_changed ON run_gateway.runs (tenant, (coalesce(ended_by, cancelled_by, created_by)))
    WHERE coalesce(ended_by, cancelled_by, created_by) IS NOT NULL;

-- Runs that were removed within the last hour, as they were.
CREATE TABLE run_gateway.removed_runs (
    stream        bigint PRIMARY KEY,
    tenant        text COLLATE "C" NOT NULL,
    id            text COLLATE "C" NOT NULL,
    workflow_name text COLLATE "C",
    status        text        NOT NULL,
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz,
    is_error      boolean,
    metadata      jsonb,
    cancel_requested_at timestamptz,
    removed_by    xid8        NOT NULL DEFAULT pg_current_xact_id(),
    removed_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX removed_runs_removed_by ON run_gateway.removed_runs (tenant, removed_by);
CREATE INDEX removed_runs_removed_at ON run_gateway.removed_runs (removed_at);

CREATE TRIGGER be_durable BEFORE INSERT OR UPDATE OR DELETE ON run_gateway.removed_runs FOR EACH STATEMENT
WHEN (current_setting('synchronous_commit') = 'off') EXECUTE FUNCTION run_gateway.be_durable();

-- Who may remove runs may note that.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT a.grantee, string_agg(DISTINCT a.privilege_type, ', ') AS rights
          FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
         WHERE c.oid = 'run_gateway.runs'::regclass AND a.grantee <> c.relowner
           AND a.privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
         GROUP BY a.grantee
    LOOP
        EXECUTE format('GRANT %s ON run_gateway.removed_runs TO %s', given.rights,
                       CASE WHEN given.grantee = 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END);
    END LOOP;
END
$$;
