-- Runs of a Flue app whose server is gone. Flue's tables are found by the caller's search path, as Flue finds them;
-- they need not be there when these functions are made.


-- Looks at all active runs, and ends those that have had no new event for `silence` seconds, at most `most` of them.
-- One Machine at a time: whoever comes meanwhile has nothing to do.
CREATE OR REPLACE FUNCTION run_gateway.flue_end_silent(silence double precision, most integer, OUT ended text[])
LANGUAGE plpgsql AS $$
DECLARE
    now    timestamptz := clock_timestamp();   -- one moment for all, taken before anything is looked at
    silent record;
BEGIN
    ended := '{}';
    IF NOT pg_try_advisory_xact_lock(1718383973) THEN   -- "flue"
        RETURN;
    END IF;
    DELETE FROM run_gateway.flue_silence w
     WHERE NOT EXISTS (SELECT FROM flue_runs r WHERE r.run_id = w.run_id AND r.status = 'active');
    INSERT INTO run_gateway.flue_silence AS w (run_id, tail, since)
    SELECT r.run_id, coalesce(s.next_offset, -1), now
      FROM flue_runs r
      LEFT JOIN flue_event_streams s ON s.path = 'runs/' || r.run_id
      LEFT JOIN run_gateway.flue_silence v ON v.run_id = r.run_id
     WHERE r.status = 'active' AND v.tail IS DISTINCT FROM coalesce(s.next_offset, -1)
    ON CONFLICT (run_id) DO UPDATE SET tail = excluded.tail, since = excluded.since;
    FOR silent IN
        SELECT w.run_id, w.tail FROM run_gateway.flue_silence w
         WHERE w.since < now - silence * interval '1 second' ORDER BY w.since LIMIT most
    LOOP
        IF run_gateway.flue_end(silent.run_id, silent.tail, silence) THEN
            ended := ended || silent.run_id;
        END IF;
    END LOOP;
END
$$;


-- Ends one run as Flue itself would: its last event, `closed`, its record. Only while it is active, has just `tail`
-- events and nobody else is writing to it: the stream's row is locked, as by each of Flue's own appends, and an append
-- that comes later finds the stream closed.
CREATE OR REPLACE FUNCTION run_gateway.flue_end(run text, tail bigint, silence double precision) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    place    text := 'runs/' || run;
    s        record;
    r        record;
    last     json;
    aside    text := chr(127);
    moment   timestamptz := date_trunc('milliseconds', clock_timestamp());   -- as JavaScript counts
    stamp    text := to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
    duration integer;
    failure  text := format('{"name":"RunAbandoned","message":"No event came for %s s: the server that ran it is gone."}', silence);
BEGIN
    SELECT v.next_offset, v.closed INTO s FROM flue_event_streams v WHERE v.path = place FOR UPDATE SKIP LOCKED;
    IF coalesce(s.next_offset, -1) <> tail THEN
        RETURN false;
    END IF;
    SELECT v.started_at INTO r FROM flue_runs v
     WHERE v.run_id = run AND v.status = 'active' FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF s.next_offset IS NULL THEN   -- its server died before it had made the stream; or somebody makes it right now
        INSERT INTO flue_event_streams (path) VALUES (place) ON CONFLICT (path) DO NOTHING;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        s.next_offset := 0;
        s.closed := false;
    END IF;

    -- JavaScript writes \u0000 and half surrogates, which Postgres does not read: escapes step aside meanwhile.
    SELECT replace(replace(e.data, '\\', aside || '1'), '\u', aside || '2') INTO last
      FROM flue_event_stream_entries e WHERE e.path = place AND e.seq = s.next_offset - 1;
    IF last ->> 'type' = 'run_end' THEN   -- it died after its last event: the end is that one's
        UPDATE flue_event_streams v SET closed = true WHERE v.path = place AND NOT v.closed;
        UPDATE flue_runs v
           SET status = CASE WHEN (last ->> 'isError')::boolean THEN 'errored' ELSE 'completed' END,
               ended_at = last ->> 'timestamp', is_error = (last ->> 'isError')::boolean,
               duration_ms = (last ->> 'durationMs')::numeric::integer,
               result = CASE WHEN NOT (last ->> 'isError')::boolean
                             THEN replace(replace((last -> 'result')::text, aside || '2', '\u'), aside || '1', '\\') END,
               error = replace(replace((last -> 'error')::text, aside || '2', '\u'), aside || '1', '\\')
         WHERE v.run_id = run;
        RETURN true;
    END IF;

    duration := CASE WHEN r.started_at ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$'
                     THEN least(greatest(extract(epoch FROM moment - r.started_at::timestamptz) * 1000, 0), 2147483647)
                     ELSE 0 END;
    IF NOT s.closed THEN
        UPDATE flue_event_streams v SET next_offset = v.next_offset + 1 WHERE v.path = place;
        INSERT INTO flue_event_stream_entries (path, seq, data) VALUES (place, s.next_offset, format(
            '{"type":"run_end","runId":%s,"result":null,"isError":true,"error":%s,"durationMs":%s,"v":3,"eventIndex":%s,'
            '"timestamp":"%s"}', to_json(run), failure, duration, s.next_offset, stamp));
        UPDATE flue_event_streams v SET closed = true WHERE v.path = place;
    END IF;
    UPDATE flue_runs v
       SET status = 'errored', ended_at = stamp, is_error = true, duration_ms = duration, result = NULL,
           error = failure
     WHERE v.run_id = run;
    RETURN true;
END
$$;
