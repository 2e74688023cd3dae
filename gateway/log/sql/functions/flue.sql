-- Runs of a Flue app whose server is gone. Flue's tables are found by the caller's search path, as Flue finds them;
-- they need not be there when these functions are made.


-- Looks at all active runs, and ends those that have had no new event for `silence` seconds, at most `most` of them. Of
-- those that have ended and whose streams are open all the same, it looks at the `followed`: their readers wait.
-- One Machine at a time: one that comes meanwhile has nothing to do.
CREATE OR REPLACE FUNCTION run_gateway.flue_end_silent(
    silence double precision, most integer, followed text[], OUT ended text[])
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
     WHERE NOT EXISTS (
        SELECT FROM flue_runs r LEFT JOIN flue_event_streams s ON s.path = 'runs/' || r.run_id
         WHERE r.run_id = w.run_id AND (r.status = 'active' OR NOT s.closed));
    INSERT INTO run_gateway.flue_silence AS w (run_id, tail, since, looks)
    SELECT o.run_id, coalesce(s.next_offset, -1), now, (SELECT l.looks FROM run_gateway.lease_looks l)
      FROM (SELECT r.run_id FROM flue_runs r WHERE r.status = 'active'
             UNION
            SELECT r.run_id FROM flue_runs r JOIN flue_event_streams t ON t.path = 'runs/' || r.run_id
             WHERE r.run_id = ANY (followed) AND NOT t.closed) o
      LEFT JOIN flue_event_streams s ON s.path = 'runs/' || o.run_id
      LEFT JOIN run_gateway.flue_silence v ON v.run_id = o.run_id
     WHERE v.tail IS DISTINCT FROM coalesce(s.next_offset, -1)
    ON CONFLICT (run_id) DO UPDATE SET tail = excluded.tail, since = excluded.since, looks = excluded.looks;
    FOR silent IN
        SELECT w.run_id, w.tail FROM run_gateway.flue_silence w
         WHERE w.since < now - (silence OPERATOR(pg_catalog.*) interval '1 second')
           -- Where nobody has heard of the database, Flue's server could not write to it, and is given as long again; but
           -- not without end, where breaks follow one another: see run_gateway.has_run_out.
           AND NOT EXISTS (
            SELECT FROM run_gateway.lease_looks l
             WHERE l.since > now - (silence OPERATOR(pg_catalog.*) interval '1 second')
               AND coalesce(l.looks - w.looks < pg_catalog.ceil(silence)::bigint * 3::bigint, true))
         ORDER BY w.since LIMIT most
    LOOP
        BEGIN
            IF run_gateway.flue_end(silent.run_id, silent.tail, silence) THEN
                ended := pg_catalog.array_append(ended, silent.run_id);
            END IF;
        EXCEPTION WHEN data_exception THEN   -- an event that is not as Flue writes it: the others are ended
            RAISE WARNING 'run % cannot be ended: %', silent.run_id, SQLERRM;
        END;
    END LOOP;
END
$$;


-- Ends one run as Flue itself would: its last event, `closed`, its record. Only while it is open, has just `tail`
-- events and nobody else is writing to it: the stream's row is locked, as by each of Flue's own appends, and an append
-- that comes later finds the stream closed. What its last event or its record says of its end is kept.
CREATE OR REPLACE FUNCTION run_gateway.flue_end(run text, tail bigint, silence double precision) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    place   text := 'runs/' || run;
    s       record;
    r       record;
    last    json;
    aside   text := chr(127);
    moment  timestamptz := date_trunc('milliseconds', clock_timestamp());   -- as JavaScript counts
    index   bigint;
BEGIN
    SELECT v.next_offset, v.closed INTO s FROM flue_event_streams v WHERE v.path = place FOR UPDATE SKIP LOCKED;
    IF coalesce(s.next_offset, -1) <> tail THEN
        RETURN false;
    END IF;
    SELECT v.status, v.started_at, v.ended_at, v.is_error, v.duration_ms, v.result, v.error INTO r FROM flue_runs v
     WHERE v.run_id = run AND (v.status = 'active' OR NOT s.closed) FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF s.next_offset IS NULL THEN   -- its server died before it had made the stream, or is making it right now
        INSERT INTO flue_event_streams (path) VALUES (place) ON CONFLICT (path) DO NOTHING;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        s.next_offset := 0;
        s.closed := false;
    END IF;

    -- JavaScript writes \u0000 and half surrogates, which Postgres does not read: escapes step aside meanwhile.
    SELECT replace(replace(e.data, E'\\\\', aside || '1'), E'\\u', aside || '2') INTO last
      FROM flue_event_stream_entries e WHERE e.path = place AND e.seq = s.next_offset - 1;
    IF r.status = 'active' THEN
        IF last ->> 'type' = 'run_end' THEN   -- its server died after its last event: the end is that one's
            r.is_error := (last ->> 'isError')::boolean;
            r.ended_at := last ->> 'timestamp';
            r.duration_ms := (last ->> 'durationMs')::numeric::integer;
            r.result := CASE WHEN NOT r.is_error
                             THEN replace(replace((last -> 'result')::text, aside || '2', E'\\u'), aside || '1', E'\\\\') END;
            r.error := replace(replace((last -> 'error')::text, aside || '2', E'\\u'), aside || '1', E'\\\\');
        ELSE
            r.is_error := true;
            r.ended_at := to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
            r.duration_ms := CASE
                WHEN r.started_at ~ E'^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d+)?Z$'
                THEN least(greatest(extract(epoch FROM moment - r.started_at::timestamptz) * 1000, 0), 2147483647)
                ELSE 0 END;
            r.result := NULL;
            r.error := pg_catalog.format(
                '{"name":"RunAbandoned","message":"No event came for %s s: the server that ran it is gone."}', silence);
        END IF;
    END IF;

    IF NOT s.closed AND last ->> 'type' IS DISTINCT FROM 'run_end' THEN
        -- Flue counts events that it could not write as well.
        index := greatest(s.next_offset, (last ->> 'eventIndex')::bigint + 1);
        UPDATE flue_event_streams v SET next_offset = v.next_offset + 1 WHERE v.path = place;
        INSERT INTO flue_event_stream_entries (path, seq, data) VALUES (place, s.next_offset, pg_catalog.concat(
            '{"type":"run_end","runId":', pg_catalog.to_json(run), ',"result":', coalesce(r.result, 'null'),
            ',"isError":', coalesce(r.is_error, false)::text, ',"error":' || r.error,
            ',"durationMs":', coalesce(r.duration_ms, 0), ',"v":3,"eventIndex":', index,
            ',"timestamp":', pg_catalog.to_json(coalesce(r.ended_at, r.started_at)), '}'));
    END IF;
    UPDATE flue_event_streams v SET closed = true WHERE v.path = place AND NOT v.closed;
    IF r.status = 'active' THEN
        UPDATE flue_runs v
           SET status = CASE WHEN r.is_error THEN 'errored' ELSE 'completed' END, ended_at = r.ended_at,
               is_error = r.is_error, duration_ms = r.duration_ms, result = r.result, error = r.error
         WHERE v.run_id = run;
    END IF;
    RETURN true;
END
$$;
