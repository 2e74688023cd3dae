-- Runs: their records, leases and control streams. Streams are locked before leases and records, a run before its
-- control stream, and several in the order of their paths, as by every batch of appends.


-- Whether a path is a run's: runs/<id>, behind its tenant if it has one.
CREATE OR REPLACE FUNCTION run_gateway.is_run(path text) RETURNS boolean
LANGUAGE sql IMMUTABLE RETURN path ~ E'^([^\x1f]*\x1f)?runs/[^/]+$';


-- A time as JavaScript's toISOString writes it.
CREATE OR REPLACE FUNCTION run_gateway.iso(moment timestamptz) RETURNS text
LANGUAGE sql STABLE RETURN to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');


-- Milliseconds between two times, as the difference of what is shown of them.
CREATE OR REPLACE FUNCTION run_gateway.milliseconds(since timestamptz, until timestamptz) RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN (extract(epoch FROM date_trunc('milliseconds', until) - date_trunc('milliseconds', since)) * 1000)::bigint;


-- A run has a record from the very transaction that creates its stream, by the gateway or by SQL.
CREATE OR REPLACE FUNCTION run_gateway.record_run() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO run_gateway.runs (stream, tenant, id, started_at)
    VALUES (NEW.id, CASE WHEN strpos(NEW.path, E'\x1f') > 0 THEN split_part(NEW.path, E'\x1f', 1) ELSE '' END,
            substring(NEW.path FROM '[^/]+$'), clock_timestamp())
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER record_run AFTER INSERT ON run_gateway.streams
FOR EACH ROW WHEN (run_gateway.is_run(NEW.path)) EXECUTE FUNCTION run_gateway.record_run();


-- Creates a run or confirms it: the same request again is a success, another one a conflict.
CREATE OR REPLACE FUNCTION run_gateway.create_run(
    wanted text, digest bytea, wanted_content_type text, wanted_media_type text, wanted_ttl bigint, wanted_lease integer,
    new_workflow_name text, new_input json, new_metadata jsonb, new_lost_event json,
    OUT verdict text, OUT tail bigint
)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT c.verdict, c.tail INTO verdict, tail FROM run_gateway.make_stream_v2(
        wanted, wanted_content_type, wanted_media_type, wanted_ttl, NULL, NULL, false, NULL, NULL, NULL, '{}',
        wanted_lease, 0, 0, NULL, NULL, NULL, NULL) c;
    IF verdict = 'created' THEN
        UPDATE run_gateway.runs r
           SET request = digest, workflow_name = new_workflow_name, input = new_input, metadata = new_metadata,
               lost_event = new_lost_event
          FROM run_gateway.streams s WHERE s.path = wanted AND r.stream = s.id;
    ELSIF verdict <> 'gone' THEN
        SELECT CASE WHEN r.request = digest THEN 'exists' ELSE 'conflict' END INTO verdict
          FROM run_gateway.streams s JOIN run_gateway.runs r ON r.stream = s.id WHERE s.path = wanted;
    END IF;
END
$$;


-- The same, and which stream it is.
CREATE OR REPLACE FUNCTION run_gateway.begin_run(
    wanted text, digest bytea, wanted_content_type text, wanted_media_type text, wanted_ttl bigint, wanted_lease integer,
    new_workflow_name text, new_input json, new_metadata jsonb, new_lost_event json,
    OUT verdict text, OUT tail bigint, OUT stream bigint
)
LANGUAGE plpgsql AS $$
BEGIN
    SELECT c.verdict, c.tail INTO verdict, tail FROM run_gateway.create_run(
        wanted, digest, wanted_content_type, wanted_media_type, wanted_ttl, wanted_lease, new_workflow_name, new_input,
        new_metadata, new_lost_event) c;
    SELECT s.id INTO stream FROM run_gateway.streams s WHERE s.path = wanted;  -- locked by make_stream_v2
END
$$;


-- The record as it is shown, of the run at this path.
CREATE OR REPLACE FUNCTION run_gateway.run_record(wanted text)
RETURNS TABLE (id text, workflow_name text, status text, started_at timestamptz, input json, ended_at timestamptz,
               is_error boolean, duration_ms bigint, result json, error json, metadata jsonb,
               cancel_requested_at timestamptz, lease integer, gone boolean)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT r.id, r.workflow_name, r.status, r.started_at, r.input, r.ended_at, r.is_error,
           run_gateway.milliseconds(r.started_at, r.ended_at), r.result, r.error, r.metadata, r.cancel_requested_at,
           s.lease, s.gone
      FROM run_gateway.streams s LEFT JOIN run_gateway.runs r ON r.stream = s.id
     WHERE s.path = wanted AND run_gateway.live(s);
END
$$;


-- How a run ended, by its last event; nothing, if that is no run_end. NUL and halves of surrogate pairs are JSON, and no
-- text of Postgres: their escapes are hidden behind a mark while the event is looked at, and stand in what is kept.
CREATE OR REPLACE FUNCTION run_gateway.ending(event bytea, OUT status text, OUT result json, OUT error json)
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    body text := convert_from(event, 'UTF8');
    mark text := 'u' || md5(body);
BEGIN
    FOR attempt IN 1 .. 2 LOOP
        BEGIN
            IF body::json ->> 'type' = 'run_end' THEN
                status := CASE WHEN body::json ->> 'isError' = 'true' THEN 'errored'
                               WHEN body::json ->> 'status' = 'cancelled' THEN 'cancelled' ELSE 'completed' END;
                result := regexp_replace(
                    run_gateway.present(body::json -> 'result')::text, mark || '([0-9a-fA-F]{4})', E'\\\\u\\1', 'g')::json;
                error := regexp_replace(
                    run_gateway.present(body::json -> 'error')::text, mark || '([0-9a-fA-F]{4})', E'\\\\u\\1', 'g')::json;
            END IF;
            RETURN;
        EXCEPTION
            WHEN data_exception OR program_limit_exceeded THEN
                IF attempt = 2 THEN
                    RETURN;  -- what it does not read, such as what is nested too deep, ends a run like any other event
                END IF;
                body := regexp_replace(
                    body, E'(?<!\\\\)((?:\\\\\\\\)*)\\\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{2})', E'\\1' || mark || E'\\2', 'g');
        END;
    END LOOP;
END
$$;


-- JSON's null as none.
CREATE OR REPLACE FUNCTION run_gateway.present(value json) RETURNS json
LANGUAGE sql IMMUTABLE RETURN CASE WHEN json_typeof(value) <> 'null' THEN value END;


-- Ends the record of a run that is being closed, and its control stream, in the transaction that closes it. How it
-- ended is what its last event says, if that is a run_end: appended with the closing request or just before it.
CREATE OR REPLACE FUNCTION run_gateway.end_run(ended bigint) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s      record;
    ending record;
BEGIN
    SELECT v.path, v.media_type, v.tail, v.breaks, v.lease,
           v.cancel_requested AND v.media_type <> 'application/json' AS stopped  -- nothing in it could say so
      INTO s FROM run_gateway.streams v WHERE v.id = ended;
    IF NOT run_gateway.is_run(s.path) THEN
        RETURN;
    END IF;
    SELECT e.status, e.result, e.error INTO ending
      FROM run_gateway.read_page(s.path, run_gateway.marked(s.tail - 1, s.breaks), NULL, 1, false) p, run_gateway.ending(p.body) e
     WHERE s.tail > 0 AND s.media_type = 'application/json';
    UPDATE run_gateway.runs r
       SET status = coalesce(ending.status, CASE WHEN s.stopped THEN 'cancelled' ELSE 'completed' END),
           ended_at = clock_timestamp(), is_error = coalesce(ending.status = 'errored', false), result = ending.result, error = ending.error,
           ended_by = pg_current_xact_id()
     WHERE r.stream = ended AND r.status = 'active';
    UPDATE run_gateway.streams v SET closed = true, closed_at = clock_timestamp()
     WHERE v.path = s.path || '/control' AND NOT v.closed;
    IF s.lease IS NOT NULL THEN
        DELETE FROM run_gateway.leases l WHERE l.stream = ended;
    END IF;
END
$$;


-- The runs that a batch of appends closes, with their control streams: all locked, in the order of their paths.
CREATE OR REPLACE FUNCTION run_gateway.lock_closing(paths text[], closes boolean[]) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    each text;
BEGIN
    FOR each IN
        SELECT unnest(paths) COLLATE "C"
        UNION
        SELECT e.path || '/control' FROM unnest(paths, closes) AS e(path, closing)
         WHERE e.closing AND run_gateway.is_run(e.path)
        ORDER BY 1
    LOOP
        PERFORM 1 FROM run_gateway.streams s
          WHERE s.path >= each AND s.path <= each ORDER BY s.path DESC LIMIT 1 FOR NO KEY UPDATE;
    END LOOP;
END
$$;


-- Makes sure that a run's control stream is there: made by the first who needs it, closed if the run is. False: there
-- is no such run.
CREATE OR REPLACE FUNCTION run_gateway.open_control(run text) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s record;
BEGIN
    PERFORM 1 FROM run_gateway.streams v WHERE v.path = run || '/control' AND run_gateway.live(v);
    IF FOUND THEN
        RETURN true;
    END IF;
    -- Locked, for the run must not be closed between this look and the insert.
    SELECT v.closed INTO s FROM run_gateway.streams v
     WHERE v.path = run AND NOT v.gone AND run_gateway.live(v) AND run_gateway.is_run(v.path) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO run_gateway.streams (path, content_type, media_type, closed, closed_at)
    VALUES (run || '/control', 'application/json', 'application/json', s.closed,
            CASE WHEN s.closed THEN clock_timestamp() END)
    ON CONFLICT (path) DO NOTHING;
    RETURN true;
END
$$;


-- Asks a run to stop: once, as an event in its control stream, a mark that every append is told of, and a time in its
-- record. `verdict`: 'requested', 'known' (asked before), 'ended', 'gone' or 'not_found'. `tail` and `body` are those
-- of the control stream, for its readers on this Machine.
CREATE OR REPLACE FUNCTION run_gateway.cancel_run(
    machine text, wanted text, reason text, OUT verdict text, OUT tail bigint, OUT body text
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s         record;
    requested timestamptz;
    outcome   text;
BEGIN
    SELECT v.id, v.gone, v.closed, v.tail, v.cancel_requested INTO s FROM run_gateway.streams v
     WHERE v.path = wanted AND run_gateway.live(v) AND run_gateway.is_run(v.path) FOR NO KEY UPDATE;
    verdict := CASE WHEN NOT FOUND THEN 'not_found' WHEN s.gone THEN 'gone' WHEN s.closed THEN 'ended'
                    WHEN s.cancel_requested THEN 'known' ELSE 'requested' END;
    tail := s.tail;
    IF verdict <> 'requested' THEN
        RETURN;
    END IF;
    requested := clock_timestamp();
    PERFORM run_gateway.open_control(wanted);
    body := '{"type":"cancel","runId":' || to_json(substring(wanted FROM '[^/]+$'))
            || coalesce(',"reason":' || to_json(reason), '') || ',"timestamp":"' || run_gateway.iso(requested) || '"}';
    SELECT o.outcome, o.tail INTO outcome, tail FROM run_gateway.append_one(
        wanted || '/control', 'application/json', false, NULL, NULL, NULL, NULL, ARRAY[convert_to(body, 'UTF8')], NULL) o;
    UPDATE run_gateway.streams v SET cancel_requested = true WHERE v.id = s.id;
    UPDATE run_gateway.runs r SET cancel_requested_at = requested, cancelled_by = pg_current_xact_id() WHERE r.stream = s.id;
    IF outcome <> 'appended' THEN
        verdict := 'known';  -- the control stream was closed by a client: there is no event, and the mark has to do
        RETURN;
    END IF;
    PERFORM run_gateway.tell(machine, ARRAY[run_gateway.news(machine, wanted || '/control', tail, tail, false, body)]);
END
$$;


-- Sees to it that leases are looked at no later than they may run out. Nothing is written where that is so already.
CREATE OR REPLACE FUNCTION run_gateway.watch_leases(streams bigint[], seconds integer[]) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    this timestamptz := clock_timestamp();
BEGIN
    INSERT INTO run_gateway.leases AS l (stream, check_at)
    SELECT e.stream, this + e.seconds * interval '1 second'
      FROM unnest(streams, seconds) AS e(stream, seconds)
     WHERE e.stream <> 0 AND e.seconds IS NOT NULL AND NOT EXISTS (
        SELECT FROM run_gateway.leases k WHERE k.stream = e.stream AND k.check_at <= this + e.seconds * interval '1 second')
    ON CONFLICT (stream) DO UPDATE SET check_at = least(l.check_at, excluded.check_at);
END
$$;


-- Ends a run whose producer has broken its promise. The caller holds the row's lock and has judged it by the clock.
CREATE OR REPLACE FUNCTION run_gateway.lose_run(lost_stream bigint, OUT tail bigint, OUT body text)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s     record;
    r     record;
    fault text;
BEGIN
    SELECT v.path, v.media_type, v.tail, v.lease INTO s FROM run_gateway.streams v WHERE v.id = lost_stream;
    SELECT v.id, v.started_at, v.lost_event INTO r FROM run_gateway.runs v WHERE v.stream = lost_stream;
    fault := format('{"name":"ProducerLost","message":"Its producer gave no sign of life within its lease of %s s."}', s.lease);
    -- The holder of an epoch is fenced for good, also a retry of what had been accepted.
    UPDATE run_gateway.producers p SET epoch = p.epoch + 1, seq = -1 WHERE p.stream = lost_stream;
    IF s.media_type = 'application/json' THEN
        body := coalesce(
            translate(r.lost_event::text, E'\r\n', '  '),
            -- Flue's run_end, so that its SDK takes it too.
            '{"type":"run_end","runId":' || to_json(r.id) || ',"result":null,"isError":true,"error":' || fault
            || format(',"durationMs":%s,"v":3,"eventIndex":%s,"timestamp":"%s"}',
                      run_gateway.milliseconds(r.started_at, clock_timestamp()), s.tail, run_gateway.iso(clock_timestamp())));
    ELSIF json_typeof(r.lost_event) = 'string' THEN
        body := r.lost_event #>> '{}';  -- a frame, as it is: see relay.sql
    END IF;
    SELECT o.tail INTO tail FROM run_gateway.append_one(
        s.path, s.media_type, true, NULL, NULL, NULL, NULL,
        CASE WHEN body IS NOT NULL THEN ARRAY[convert_to(body, 'UTF8')] END, NULL) o;
    UPDATE run_gateway.streams v SET lost = true WHERE v.id = lost_stream;
    UPDATE run_gateway.runs v SET status = 'errored', is_error = true, error = coalesce(v.error, fault::json)
     WHERE v.stream = lost_stream;
END
$$;


-- When a lease runs out: no sooner than a whole one after the looks began, for until then there was no database, or no
-- Machine, to show a sign of life to. Five seconds at least, as who was refused waits before he tries again.
CREATE OR REPLACE FUNCTION run_gateway.lease_end(lease_until timestamptz, lease integer, watched timestamptz)
RETURNS timestamptz LANGUAGE sql IMMUTABLE
RETURN CASE WHEN lease_until IS NOT NULL THEN greatest(lease_until, watched + greatest(lease, 5) * interval '1 second') END;


-- Whether a lease has run out. Breaks in the looks that come one soon after the other do not put it off for ever: after
-- three times as many looks as it has seconds, whatever lay between them. `seen`: when there had been so many `looks` this
-- end of the lease, the `missed` one, had passed.
CREATE OR REPLACE FUNCTION run_gateway.has_run_out(
    lease_until timestamptz, lease integer, watched timestamptz, missed timestamptz, seen bigint, looks bigint, this timestamptz
) RETURNS boolean LANGUAGE sql IMMUTABLE
RETURN run_gateway.lease_end(lease_until, lease, watched) <= this
    OR (lease_until <= this AND missed = lease_until AND looks >= seen + 3 * greatest(lease, 5));


-- The look of every second, by one Machine at a time: ends the runs whose leases have run out, and moves on the look
-- at those that have shown a sign of life. `wait`: when this Machine is to come again. The Machine that looked comes again after
-- a second; the others when a look is overdue, because that one has died. `more`: not all that was due has been seen
-- to, so it is to come `again` at once.
CREATE OR REPLACE FUNCTION run_gateway.end_lost_runs(
    machine text, most integer, again boolean,
    OUT paths text[], OUT tails bigint[], OUT bodies text[], OUT more boolean, OUT wait interval
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    this    timestamptz := clock_timestamp();
    looked  timestamptz;
    watched timestamptz;   -- since when a Machine has looked every few seconds
    number  bigint;        -- of looks, with this one
    due     bigint[];
    doomed  record;
    ended   record;
    moved   bigint;
    seen    bigint;
BEGIN
    more := false;
    wait := interval '1.5 seconds';
    IF NOT pg_try_advisory_xact_lock(1920298604) THEN   -- a number of our own: "rusl"
        RETURN;
    END IF;
    -- By its key: with sequential scans off, a plan without one costs so much that a server with JIT compiles it.
    IF again THEN
        UPDATE run_gateway.lease_looks l SET at = this WHERE l.one RETURNING l.since, l.looks INTO watched, number;
    ELSE
        SELECT l.at, l.since INTO looked, watched FROM run_gateway.lease_looks l WHERE l.one;
        IF looked BETWEEN this - interval '0.9 seconds' AND this THEN
            wait := looked + wait - this;
            RETURN;
        END IF;
        -- A server that has taken over may lack signs of life.
        IF looked NOT BETWEEN this - interval '3 seconds' AND this
           OR looked < (SELECT v.since FROM run_gateway.server v WHERE v.one) THEN
            watched := NULL;
        END IF;
        IF looked > this + interval '1 second' THEN  -- the clock was set back: no look may wait until it is as late again
            UPDATE run_gateway.leases l SET check_at = this WHERE l.check_at > this;
            UPDATE run_gateway.subscriptions u
               SET lease_until = u.lease_until + (this - looked), next_attempt_at = u.next_attempt_at + (this - looked)
             WHERE u.number = ANY (ARRAY(SELECT v.number FROM run_gateway.subscriptions v WHERE v.lease_until > looked
                                          FOR NO KEY UPDATE SKIP LOCKED));
        END IF;
        INSERT INTO run_gateway.lease_looks AS l (at, since) VALUES (this, coalesce(watched, this))
        ON CONFLICT (one) DO UPDATE SET at = excluded.at, since = excluded.since, looks = l.looks + 1,
            -- What a break before this one put off has its time, too.
            left_at = CASE WHEN watched IS NOT NULL OR l.since > l.at - interval '30 seconds' AND l.left_at < l.at
                           THEN l.left_at ELSE l.at END
        RETURNING l.looks INTO number;
        watched := coalesce(watched, this);
    END IF;
    wait := interval '1 second';
    due := ARRAY(SELECT v.stream FROM run_gateway.leases v WHERE v.check_at <= this
                  ORDER BY v.check_at LIMIT most FOR UPDATE SKIP LOCKED);
    IF cardinality(due) = 0 THEN
        RETURN;
    END IF;
    DELETE FROM run_gateway.leases l
     WHERE l.stream = ANY (due)
       AND NOT EXISTS (SELECT FROM run_gateway.streams s
                        WHERE s.id = l.stream AND NOT s.closed AND NOT s.gone AND run_gateway.live(s));
    GET DIAGNOSTICS seen = ROW_COUNT;

    FOR doomed IN
        SELECT s.id, s.path, l.missed, l.looks FROM run_gateway.streams s JOIN run_gateway.leases l ON l.stream = s.id
         WHERE s.id = ANY (due) AND run_gateway.has_run_out(s.lease_until, s.lease, watched, l.missed, l.looks, number, this)
           AND NOT s.closed AND NOT s.gone AND run_gateway.live(s)
         ORDER BY s.path
    LOOP
        -- The session that holds the row is appending: a sign of life. What it committed by now is judged here.
        PERFORM 1 FROM run_gateway.streams s
          WHERE s.id = doomed.id
            AND run_gateway.has_run_out(s.lease_until, s.lease, watched, doomed.missed, doomed.looks, number, this)
            AND NOT s.closed AND NOT s.gone AND s.path IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED;
        -- Nor is anybody waited for who holds its control stream or its record: the next look tries again.
        CONTINUE WHEN NOT FOUND OR cardinality(run_gateway.held(ARRAY[doomed.path], '{true}', '{true}')) > 0;
        CONTINUE WHEN run_gateway.offer_recording(doomed.id);  -- another Machine may go on with it
        BEGIN
            SELECT * INTO ended FROM run_gateway.lose_run(doomed.id);
        EXCEPTION WHEN OTHERS THEN   -- it keeps no other from its turn
            RAISE WARNING 'run_gateway: run % cannot be ended: % (%)', doomed.path, SQLERRM, SQLSTATE;
            UPDATE run_gateway.leases l SET check_at = this + interval '5 seconds' WHERE l.stream = doomed.id;
            CONTINUE;
        END;
        seen := seen + 1;
        PERFORM run_gateway.tell(machine, ARRAY[run_gateway.news(
            machine, doomed.path, ended.tail - (ended.body IS NOT NULL)::integer + 1, ended.tail, true, coalesce(ended.body, ''))]);
        paths := paths || doomed.path;
        tails := tails || ended.tail;
        bodies := bodies || ended.body;
    END LOOP;

    -- An end that is further away than a whole lease was set by a clock that has been set back since: a whole one from now.
    UPDATE run_gateway.streams s SET lease_until = clock_timestamp() + s.lease * interval '1 second'
     WHERE s.id = ANY (ARRAY(
            SELECT v.id FROM run_gateway.streams v
             WHERE v.id = ANY (due) AND NOT v.closed
               AND v.lease_until > clock_timestamp() + (v.lease + 2) * interval '1 second'
             ORDER BY v.path FOR NO KEY UPDATE SKIP LOCKED));

    -- Alive. Locked, as what an append that is under way promises is not to be seen yet: a shorter lease, maybe. What is
    -- held is left for the next look, and so is a run that could not be ended.
    UPDATE run_gateway.leases l
       SET check_at = run_gateway.lease_end(s.lease_until, s.lease, watched),
           missed = CASE WHEN s.lease_until <= this THEN s.lease_until END,
           looks = CASE WHEN s.lease_until > this THEN NULL WHEN l.missed = s.lease_until THEN l.looks ELSE number END
      FROM run_gateway.streams s
     WHERE l.stream = ANY (ARRAY(SELECT v.id FROM run_gateway.streams v WHERE v.id = ANY (due) AND NOT v.closed
                                  ORDER BY v.path FOR NO KEY UPDATE SKIP LOCKED))
       AND s.id = l.stream AND run_gateway.lease_end(s.lease_until, s.lease, watched) > this;
    GET DIAGNOSTICS moved = ROW_COUNT;
    seen := seen + moved;
    UPDATE run_gateway.leases l SET check_at = this + interval '0.5 seconds' WHERE l.stream = ANY (due) AND l.check_at <= this;
    GET DIAGNOSTICS moved = ROW_COUNT;
    seen := seen + moved;
    more := cardinality(due) = most AND seen > 0;
END
$$;
