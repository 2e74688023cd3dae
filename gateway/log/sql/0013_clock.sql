-- When somebody had last looked before the break that `since` has ended: see run_gateway.unheard.

ALTER TABLE run_gateway.lease_looks ADD COLUMN left_at timestamptz;

-- Roles that may append from their own transactions may go on doing so.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT DISTINCT a.grantee FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
         WHERE c.oid = 'run_gateway.streams'::regclass AND a.grantee <> c.relowner AND a.privilege_type = 'SELECT'
    LOOP
        EXECUTE format('GRANT SELECT ON run_gateway.lease_looks TO %s',
                       CASE WHEN given.grantee = 0 THEN 'PUBLIC' ELSE given.grantee::regrole::text END);
    END LOOP;
END
$$;
