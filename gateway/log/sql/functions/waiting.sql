-- No session waits for long behind a row that another one holds, as a transaction does that was left idle. Applied after
-- all other functions: making one anew forgets its settings.


-- Those of the paths whose requests have to wait: for the row of the stream, or for another that they write to as well.
-- `closes`: the request closes its stream, so it ends the run's record, lease and control stream; `leases`: it has one.
CREATE OR REPLACE FUNCTION run_gateway.held(paths text[], closes boolean[], leases boolean[]) RETURNS text[]
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET lock_timeout = '100ms'
AS $$
DECLARE
    each record;
    free boolean;
    held text[] := '{}';
BEGIN
    FOR each IN
        SELECT s.id, s.path, e.closing AND run_gateway.is_run(s.path) AS closing, e.leasing
          FROM unnest(paths, closes, leases) AS e(path, closing, leasing) JOIN run_gateway.streams s ON s.path = e.path
    LOOP
        PERFORM 1 FROM run_gateway.streams s WHERE s.id = each.id FOR NO KEY UPDATE SKIP LOCKED;
        free := FOUND;
        IF free AND each.closing THEN
            PERFORM 1 FROM run_gateway.streams s WHERE s.path = each.path || '/control' FOR NO KEY UPDATE SKIP LOCKED;
            free := FOUND OR NOT EXISTS (SELECT FROM run_gateway.streams s WHERE s.path = each.path || '/control');
        END IF;
        IF NOT free OR (each.closing OR each.leasing) AND NOT run_gateway.is_free(each.id) THEN
            held := held || each.path;
        END IF;
    END LOOP;
    RETURN held;
END
$$;


-- An append waits for the commit of another Machine's, and for nothing longer: its neighbours go on without it.
DO $$
DECLARE
    waiting record;
BEGIN
    FOR waiting IN
        SELECT p.oid::regprocedure AS function, w.patience
          FROM pg_proc p
          JOIN (VALUES ('append_one', '100ms'), ('append_alone', '100ms'), ('append_plain', '100ms'),
                       ('append_batch', '100ms'), ('make_stream_v2', '2s'), ('create_run', '2s'), ('delete_stream', '2s'),
                       ('cancel_run', '2s'), ('open_control', '2s'), ('purge', '2s'), ('retire', '2s'),
                       ('pack_page', '2s'), ('pack_whole', '2s'), ('end_lost_runs', '2s')
               ) AS w(name, patience) ON w.name = p.proname
         WHERE p.pronamespace = 'run_gateway'::regnamespace
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET lock_timeout = %L', waiting.function, waiting.patience);
    END LOOP;
END
$$;


-- Names are looked for where nobody else can put one. Not in SQL functions with a body of their own, which have found theirs
-- when they were made, so that they can be written into the statements that ask them; nor in procedures, which could not
-- commit; nor in what every append asks (append.sql).
DO $$
DECLARE
    exposed regprocedure;
BEGIN
    FOR exposed IN
        SELECT p.oid FROM pg_proc p
         WHERE p.pronamespace = 'run_gateway'::regnamespace AND p.prokind = 'f' AND p.prosqlbody IS NULL
           AND p.proname NOT IN ('append_alone', 'append_plain', 'append_one', 'append_batch')
           AND p.proname NOT LIKE 'flue%'
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', exposed);
    END LOOP;
END
$$;
