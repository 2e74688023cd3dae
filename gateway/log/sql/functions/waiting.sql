-- Nobody waits for long behind a row that somebody else holds, as a transaction does that was left idle. Applied after
-- all other functions: making one anew forgets its settings.


-- Those of the paths whose streams cannot be locked at this moment.
CREATE OR REPLACE FUNCTION run_gateway.held(paths text[]) RETURNS text[]
LANGUAGE plpgsql
SET enable_seqscan = off SET lock_timeout = '100ms'
AS $$
DECLARE
    free text[];
BEGIN
    SELECT coalesce(array_agg(f.path), '{}') INTO free
      FROM (SELECT s.path FROM run_gateway.streams s WHERE s.path = ANY (paths) FOR NO KEY UPDATE SKIP LOCKED) f;
    RETURN (SELECT coalesce(array_agg(s.path), '{}') FROM run_gateway.streams s
             WHERE s.path = ANY (paths) AND s.path <> ALL (free));
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
                       ('append_batch', '100ms'), ('make_stream', '2s'), ('create_run', '2s'), ('delete_stream', '2s'),
                       ('cancel_run', '2s'), ('open_control', '2s'), ('purge', '2s'), ('retire', '2s'),
                       ('pack_page', '2s'), ('end_lost_runs', '2s')
               ) AS w(name, patience) ON w.name = p.proname
         WHERE p.pronamespace = 'run_gateway'::regnamespace
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET lock_timeout = %L', waiting.function, waiting.patience);
    END LOOP;
END
$$;
