-- Recordings of the relay: claimed under their keys before anything is sent upstream, and lost with their frame. A row of
-- recording_keys is locked before any stream.


-- Makes a run of an answer that is there, or is still waited for (`head` NULL). Its path holds chance, so that nobody else
-- makes a stream there: hence no more than the rows that make_stream_v2 and create_run would write, in one statement.
CREATE OR REPLACE FUNCTION run_gateway.begin_recording(
    wanted text, relay text, content_type text, media_type text, lease integer, workflow_name text, input json,
    lost_event json, head text[], OUT stream bigint
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    WITH made AS (
        INSERT INTO run_gateway.streams AS s (path, content_type, media_type, lease, lease_until)
        VALUES (wanted, begin_recording.content_type, begin_recording.media_type, begin_recording.lease,
                run_gateway.leased_until(begin_recording.lease))
        RETURNING s.id, s.lease_until
    ), watched AS (
        INSERT INTO run_gateway.leases AS l (stream, check_at) SELECT m.id, m.lease_until FROM made m
    ), run AS (  -- record_run finds it there
        INSERT INTO run_gateway.runs AS r (stream, tenant, id, started_at, workflow_name, input, lost_event)
        SELECT m.id, run_gateway.tenant_of(wanted), substring(wanted FROM '[^/]+$'), clock_timestamp(),
               begin_recording.workflow_name, begin_recording.input, begin_recording.lost_event
          FROM made m
    )
    INSERT INTO run_gateway.recordings AS r (stream, relay, head)
    SELECT m.id, begin_recording.relay, begin_recording.head FROM made m
    RETURNING r.stream INTO stream;
END
$$;


-- Has a key lead to a recording from now on: the newest wins.
CREATE OR REPLACE FUNCTION run_gateway.name_recording(wanted bytea, named bigint) RETURNS void
LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO run_gateway.recording_keys AS k (key, stream) VALUES (wanted, named)
    ON CONFLICT (key) DO UPDATE SET stream = excluded.stream, previous = nullif(k.stream, 0);
END;


-- Claims a key for a recording to be. `attach`: not where there is one of it already, whose path is given back instead;
-- `grace`: unless that ended longer ago, or was lost before it was answered. Two claims of one key come one after the other.
CREATE OR REPLACE FUNCTION run_gateway.claim_recording(
    wanted bytea, attach boolean, grace interval,
    wanted_path text, relay text, content_type text, media_type text, lease integer, workflow_name text, input json,
    lost_event json, OUT path text, OUT stream bigint
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    known bigint;
BEGIN
    INSERT INTO run_gateway.recording_keys AS k (key, stream) VALUES (wanted, 0) ON CONFLICT DO NOTHING;
    SELECT k.stream INTO known FROM run_gateway.recording_keys k WHERE k.key = wanted FOR UPDATE;
    IF attach THEN
        SELECT s.path, s.id INTO path, stream FROM run_gateway.streams s
         WHERE s.id = known AND s.path IS NOT NULL AND NOT s.gone AND run_gateway.live(s)
           AND NOT coalesce(s.closed_at < clock_timestamp() - grace, false)
           AND NOT (s.lost AND s.tail <= 1 AND EXISTS (SELECT FROM run_gateway.recordings r WHERE r.stream = s.id AND r.head IS NULL));
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    path := wanted_path;
    stream := run_gateway.begin_recording(
        wanted_path, claim_recording.relay, claim_recording.content_type, claim_recording.media_type,
        claim_recording.lease, claim_recording.workflow_name, claim_recording.input, claim_recording.lost_event, NULL);
    UPDATE run_gateway.recording_keys k SET stream = claim_recording.stream, previous = nullif(known, 0)
     WHERE k.key = wanted;
    IF NOT FOUND THEN  -- it was tidied away just now
        PERFORM run_gateway.name_recording(wanted, claim_recording.stream);
    END IF;
END
$$;


-- Nothing has come of a claim: its run goes, and its key leads to the one before again.
CREATE OR REPLACE FUNCTION run_gateway.release_recording(machine text, wanted bytea, released bigint) RETURNS text
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    place text;
BEGIN
    UPDATE run_gateway.recording_keys k SET stream = k.previous, previous = NULL
     WHERE k.key = wanted AND k.stream = released AND k.previous IS NOT NULL;
    DELETE FROM run_gateway.recording_keys k WHERE k.key = wanted AND k.stream = released;
    SELECT s.path INTO place FROM run_gateway.streams s WHERE s.id = released;
    IF place IS NOT NULL THEN
        PERFORM run_gateway.delete_stream(machine, place);
    END IF;
    DELETE FROM run_gateway.recordings r WHERE r.stream = released;
    RETURN place;
END
$$;


-- Ends a recording whose upstream is lost, with its last frame, as a lease that runs out does. NULL: it has ended already.
CREATE OR REPLACE FUNCTION run_gateway.lose_recording(
    machine text, wanted text, reason text, OUT tail bigint, OUT body text
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    doomed bigint;
BEGIN
    SELECT s.id INTO doomed FROM run_gateway.streams s
     WHERE s.path = wanted AND NOT s.closed AND NOT s.gone FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT l.tail, l.body INTO tail, body FROM run_gateway.lose_run(doomed) l;
    UPDATE run_gateway.runs r SET error = json_build_object('name', 'UpstreamLost', 'message', reason)
     WHERE r.stream = doomed;
    PERFORM run_gateway.tell(machine, ARRAY[run_gateway.news(
        machine, wanted, tail - (body IS NOT NULL)::integer + 1, tail, true, coalesce(body, ''))]);
END
$$;


-- The same, if the recording has not been taken over since.
CREATE OR REPLACE FUNCTION run_gateway.lose_recording(
    machine text, wanted text, reason text, own_generation integer, OUT tail bigint, OUT body text
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    doomed bigint;
BEGIN
    SELECT s.id INTO doomed FROM run_gateway.streams s
     WHERE s.path = wanted AND NOT s.closed AND NOT s.gone FOR NO KEY UPDATE;
    PERFORM 1 FROM run_gateway.recordings r WHERE r.stream = doomed AND r.generation = own_generation;
    IF FOUND THEN
        SELECT l.tail, l.body INTO tail, body FROM run_gateway.lose_recording(machine, wanted, reason) l;
    END IF;
END
$$;


-- Offers a recording whose Machine has shown no sign of life to those that can go on with it, for one more lease: once,
-- until a Machine has taken it. The caller holds its stream's row. false: it cannot be gone on with.
CREATE OR REPLACE FUNCTION run_gateway.offer_recording(offered bigint) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    first boolean;
BEGIN
    UPDATE run_gateway.recordings r
       SET offered_at = CASE WHEN r.offered_at IS NULL THEN clock_timestamp() END,
           rejoin = CASE WHEN r.offered_at IS NULL THEN r.rejoin END
     WHERE r.stream = offered AND r.rejoin IS NOT NULL
    RETURNING r.offered_at IS NOT NULL INTO first;
    IF first THEN
        UPDATE run_gateway.streams s
           SET lease_until = clock_timestamp() + greatest(s.lease, 5) * interval '1 second' WHERE s.id = offered;
    END IF;
    RETURN coalesce(first, false);
END
$$;


-- Hands a recording over, before its Machine ends. false: it cannot be, or has been taken over already.
CREATE OR REPLACE FUNCTION run_gateway.hand_over_recording(handed bigint, own_generation integer) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM 1 FROM run_gateway.streams s WHERE s.id = handed AND NOT s.closed AND NOT s.gone FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM 1 FROM run_gateway.recordings r
      WHERE r.stream = handed AND r.generation = own_generation AND r.offered_at IS NULL;
    RETURN FOUND AND run_gateway.offer_recording(handed);
END
$$;


-- Takes over what is offered of these rows of the relay. Each is given to one Machine; the one that recorded it before can append
-- nothing more, since the numbers of the appends of each generation are higher than those of the one before. `age`: in
-- seconds, since its run began. `taker`: the life by which the Machine owns conversations; a recording of one is taken by
-- its owner alone, whose application it is that can go on with it.
CREATE OR REPLACE FUNCTION run_gateway.take_recordings(relays text[], most integer, taker bigint)
RETURNS TABLE (path text, stream bigint, relay text, generation integer, rejoin json, cancels boolean,
               cancel_requested boolean, age double precision, conversation bytea)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    offered bigint;
BEGIN
    FOR offered IN
        SELECT r.stream FROM run_gateway.recordings r
         WHERE r.offered_at IS NOT NULL AND r.relay = ANY (relays)
           AND (r.conversation IS NULL OR EXISTS (
                SELECT FROM run_gateway.owner_of(r.conversation) o WHERE o.life = taker))
         ORDER BY r.offered_at LIMIT most
    LOOP
        SELECT s.path, s.id, s.cancel_requested INTO path, stream, cancel_requested FROM run_gateway.streams s
         WHERE s.id = offered AND s.path IS NOT NULL AND NOT s.closed AND NOT s.gone FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        UPDATE run_gateway.recordings r SET offered_at = NULL, generation = r.generation + 1
         WHERE r.stream = offered AND r.offered_at IS NOT NULL AND r.rejoin IS NOT NULL
        RETURNING r.relay, r.generation, r.rejoin, r.cancels, r.conversation
             INTO relay, generation, rejoin, cancels, conversation;
        CONTINUE WHEN NOT FOUND;
        UPDATE run_gateway.streams s
           SET lease_until = run_gateway.leased_until(s.lease), stream_seq = lpad(generation::text, 4, '0') || repeat('0', 12)
         WHERE s.id = offered;
        SELECT extract(epoch FROM clock_timestamp() - v.started_at)::double precision INTO age
          FROM run_gateway.runs v WHERE v.stream = offered;
        RETURN NEXT;
    END LOOP;
END
$$;


-- Of the next `most` recordings after one, takes away those that ended long enough ago, and forgets those whose streams have
-- gone by other ways. Returns the last one that was looked at; 0 after the end.
CREATE OR REPLACE FUNCTION run_gateway.retire_next_recordings(after bigint, keep interval, most integer) RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    this    timestamptz := clock_timestamp();
    each    record;
    seen    integer := 0;
    removed integer := 0;
BEGIN
    FOR each IN
        SELECT r.stream, s.id IS NULL AS forgotten, coalesce(s.closed_at < this - keep AND NOT s.gone, false) AS due
          FROM (SELECT v.stream FROM run_gateway.recordings v WHERE v.stream > after ORDER BY v.stream LIMIT most) r
          LEFT JOIN run_gateway.streams s ON s.id = r.stream AND s.path IS NOT NULL
         ORDER BY r.stream
    LOOP
        seen := seen + 1;
        IF each.due AND run_gateway.try_away(each.stream, false) THEN
            removed := removed + 1;
            each.forgotten := true;
        END IF;
        IF each.forgotten THEN
            DELETE FROM run_gateway.recordings r WHERE r.stream = each.stream;
        END IF;
        IF removed >= 50 OR removed > 0 AND clock_timestamp() > this + interval '0.05 seconds'   -- see try_away, retire
           OR clock_timestamp() > this + interval '1 second' THEN
            RETURN each.stream;
        END IF;
    END LOOP;
    RETURN CASE WHEN seen < most THEN 0 ELSE each.stream END;
END
$$;


-- Of the next `most` keys after one, forgets those that lead nowhere any more. Returns as above; '' after the end.
CREATE OR REPLACE FUNCTION run_gateway.forget_next_keys(after bytea, most integer) RETURNS bytea
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    keys bytea[] := ARRAY(
        SELECT k.key FROM run_gateway.recording_keys k WHERE k.key > after ORDER BY k.key LIMIT most);
BEGIN
    DELETE FROM run_gateway.recording_keys k WHERE k.key = ANY (ARRAY(
        SELECT o.key FROM unnest(keys) AS u(key) JOIN run_gateway.recording_keys o ON o.key = u.key
          LEFT JOIN run_gateway.recordings r ON r.stream = o.stream
         WHERE r.stream IS NULL AND o.stream <> 0 FOR UPDATE OF o SKIP LOCKED));
    RETURN coalesce(keys[most], '');
END
$$;
