-- What becomes of a subscription: each change is one function, made under its row lock.


-- Streams are linked in the very transaction that creates them: whichever Machine does it, none is missed. Whoever
-- changes what is subscribed to excludes them for a moment: a stream exists before, and is linked at its tail, or
-- comes after, and is linked from its beginning. This lock comes after a subscription's row lock, never before: who
-- holds it must wait for nobody that waits for a stream.
CREATE OR REPLACE FUNCTION run_gateway.lock_membership(shared boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF shared THEN
        PERFORM pg_advisory_xact_lock_shared(1920298605);   -- a number of our own: "rusm"
    ELSE
        PERFORM pg_advisory_xact_lock(1920298605);
        UPDATE run_gateway.subscription_changes SET version = version + 1;
    END IF;
END
$$;


-- Tenants are namespaces (protocol/tenants.py): stored paths and ids are tenant, U+001F, name; the default's are bare.
CREATE OR REPLACE FUNCTION run_gateway.tenant_of(stored text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN substr(stored, 1, greatest(strpos(stored, chr(31)) - 1, 0));

CREATE OR REPLACE FUNCTION run_gateway.without_tenant(stored text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN substr(stored, strpos(stored, chr(31)) + 1);


-- Whether the pattern takes the path, which has to be the same tenant's. Its own wake stream it never takes: every wake would call for the next.
CREATE OR REPLACE FUNCTION run_gateway.covers(s run_gateway.subscriptions, path text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN s.pattern IS NULL OR path = s.wake_stream OR run_gateway.tenant_of(path) <> run_gateway.tenant_of(s.id)
                 THEN false
            WHEN starts_with(ltrim(run_gateway.without_tenant(path), '/'), s.pattern_head)
                 THEN ('/' || run_gateway.without_tenant(path)) ~ s.pattern_regex
            ELSE false END;


CREATE OR REPLACE FUNCTION run_gateway.link_stream() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM run_gateway.lock_membership(true);
    UPDATE run_gateway.subscription_links l SET stream = NEW.id WHERE l.path = NEW.path AND l.stream IS NULL;
    INSERT INTO run_gateway.subscription_links AS l (subscription, path, stream, acked, explicit, glob, settled)
    SELECT s.number, NEW.path, NEW.id, -1, false, true, false FROM run_gateway.subscriptions s
     WHERE run_gateway.covers(s, NEW.path) ORDER BY s.number
    ON CONFLICT (subscription, path) DO UPDATE      -- an explicit link, or what is left of an earlier stream
       SET glob = true, stream = NEW.id, settled = false,
           explicit = l.explicit AND l.stream = NEW.id,
           acked = CASE WHEN l.stream = NEW.id THEN l.acked ELSE -1 END;
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER link_stream AFTER INSERT ON run_gateway.streams
FOR EACH ROW EXECUTE FUNCTION run_gateway.link_stream();


-- The first stream with events after its acked position; NULL when nothing is pending.
CREATE OR REPLACE FUNCTION run_gateway.first_pending(wanted bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (
        SELECT l.path FROM run_gateway.subscription_links l JOIN run_gateway.streams s ON s.id = l.stream
         WHERE l.subscription = wanted AND NOT l.settled AND s.tail > greatest(l.acked, 0)
           AND NOT s.gone AND run_gateway.live(s)
         ORDER BY l.path LIMIT 1);
END
$$;


-- The streams of a subscription, as [path, explicit, acked, tail, pending, stream], those with work first. Without
-- `with_settled` those are left out that will never have work again.
CREATE OR REPLACE FUNCTION run_gateway.links_of(wanted bigint, with_settled boolean, most integer) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (
        SELECT coalesce(jsonb_agg(jsonb_build_array(v.path, v.explicit, v.acked, v.tail, v.pending, v.stream)
                                  ORDER BY v.pending DESC, v.path), '[]')
          FROM (SELECT l.path, l.explicit, run_gateway.marked(l.acked, s.breaks) AS acked, l.stream,
                       coalesce(run_gateway.marked(s.tail, s.breaks), 0) AS tail,
                       coalesce(s.tail, 0) > greatest(l.acked, 0) AS pending
                  FROM run_gateway.subscription_links l LEFT JOIN run_gateway.streams s ON s.id = l.stream
                 WHERE l.subscription = wanted AND (with_settled OR NOT l.settled)
                   AND (l.stream IS NULL OR (NOT s.gone AND run_gateway.live(s)))
                 ORDER BY pending DESC, l.path LIMIT most) v);
END
$$;


-- The same without which stream each is.
CREATE OR REPLACE FUNCTION run_gateway.linked_streams(wanted bigint, with_settled boolean, most integer) RETURNS jsonb
LANGUAGE sql STABLE
RETURN (SELECT coalesce(jsonb_agg(l.link - 5 ORDER BY l.i), '[]')
          FROM jsonb_array_elements(run_gateway.links_of(wanted, with_settled, most)) WITH ORDINALITY AS l(link, i));


-- §6.2: creates a subscription or confirms it. Existing streams are linked at their tail: history is not replayed.
CREATE OR REPLACE FUNCTION run_gateway.create_subscription(
    new_id text, new_type text, new_pattern text, new_head text, new_regex text, paths text[], new_url text,
    new_wake_stream text, new_lease_ttl interval, new_description text, new_hash text
) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    SELECT * INTO s FROM run_gateway.subscriptions WHERE id = new_id;
    IF NOT FOUND THEN
        PERFORM run_gateway.lock_membership(false);
        SELECT * INTO s FROM run_gateway.subscriptions WHERE id = new_id;
    END IF;
    IF FOUND THEN
        RETURN CASE WHEN s.config_hash = new_hash THEN 'confirmed' ELSE 'conflict' END;
    END IF;
    INSERT INTO run_gateway.subscriptions (
        id, type, pattern, pattern_head, pattern_regex, webhook_url, wake_stream, lease_ttl, description, config_hash)
    VALUES (new_id, new_type, new_pattern, new_head, new_regex, new_url, new_wake_stream, new_lease_ttl,
            new_description, new_hash)
    RETURNING * INTO s;
    PERFORM run_gateway.link_explicitly(s, paths);
    INSERT INTO run_gateway.subscription_links AS l (subscription, path, stream, acked, explicit, glob, settled)
    SELECT s.number, t.path, t.id, t.tail, false, true, t.closed FROM run_gateway.streams t
     WHERE new_pattern IS NOT NULL AND run_gateway.covers(s, t.path) AND NOT t.gone AND run_gateway.live(t)
    ON CONFLICT (subscription, path) DO UPDATE SET glob = true;
    RETURN 'created';
END
$$;


-- Links at the present tail what is not linked yet (§6.4). The caller holds the membership lock.
CREATE OR REPLACE FUNCTION run_gateway.link_explicitly(s run_gateway.subscriptions, paths text[]) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    INSERT INTO run_gateway.subscription_links AS l (subscription, path, stream, acked, explicit, glob, settled)
    SELECT DISTINCT s.number, p.path, t.id, coalesce(t.tail, 0), true,
           t.id IS NOT NULL AND run_gateway.covers(s, p.path), coalesce(t.closed, false)
      FROM unnest(paths) AS p(path)
      LEFT JOIN run_gateway.streams t ON t.path = p.path AND NOT t.gone AND run_gateway.live(t)
    ON CONFLICT (subscription, path) DO UPDATE
       SET explicit = true, stream = excluded.stream,
           glob = CASE WHEN l.stream IS NOT DISTINCT FROM excluded.stream THEN l.glob ELSE excluded.glob END,
           acked = CASE WHEN l.stream IS NOT DISTINCT FROM excluded.stream THEN l.acked ELSE excluded.acked END,
           settled = CASE WHEN l.stream IS NOT DISTINCT FROM excluded.stream THEN l.settled ELSE excluded.settled END;
END;


CREATE OR REPLACE FUNCTION run_gateway.add_subscription_streams(wanted text, paths text[]) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    SELECT * INTO s FROM run_gateway.subscriptions WHERE id = wanted FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM run_gateway.lock_membership(false);
    PERFORM run_gateway.link_explicitly(s, paths);
    RETURN true;
END
$$;


-- Takes the explicit link away; a glob link stays (§6.4).
CREATE OR REPLACE FUNCTION run_gateway.remove_subscription_stream(wanted text, doomed text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    SELECT * INTO s FROM run_gateway.subscriptions WHERE id = wanted FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM run_gateway.lock_membership(false);
    DELETE FROM run_gateway.subscription_links l WHERE l.subscription = s.number AND l.path = doomed AND NOT l.glob;
    UPDATE run_gateway.subscription_links l SET explicit = false WHERE l.subscription = s.number AND l.path = doomed;
    RETURN true;
END
$$;


-- What is in flight for it finds nothing any more, and can move no cursor (§6.3). Its links are tidied away.
CREATE OR REPLACE FUNCTION run_gateway.delete_subscription(doomed text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM run_gateway.subscriptions WHERE id = doomed FOR UPDATE;
    IF FOUND THEN
        PERFORM run_gateway.lock_membership(false);
        DELETE FROM run_gateway.subscriptions WHERE id = doomed;
    END IF;
END
$$;


-- §7: wakes the subscription when it is idle and has work; of many Machines that try, one does. A lease that has
-- expired is cleared first (§7.3). `lost_event`: why no event could be written to the wake stream.
CREATE OR REPLACE FUNCTION run_gateway.wake_subscription(
    wanted bigint, trigger_path text, OUT woken boolean, OUT lost_event text
)
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.subscriptions;
    first text;
BEGIN
    woken := false;
    SELECT * INTO s FROM run_gateway.subscriptions WHERE number = wanted FOR NO KEY UPDATE;
    IF s.lease_until <= clock_timestamp() THEN
        UPDATE run_gateway.subscriptions
           SET wake_id = NULL, holder = NULL, lease_until = NULL, next_attempt_at = NULL WHERE number = wanted;
        s.wake_id := NULL;
    END IF;
    IF s.number IS NULL OR s.wake_id IS NOT NULL THEN
        RETURN;
    END IF;
    first := run_gateway.first_pending(wanted);
    IF first IS NULL THEN
        RETURN;
    END IF;
    UPDATE run_gateway.subscriptions
       SET generation = generation + 1, wake_id = 'w_' || replace(gen_random_uuid()::text, '-', ''), holder = NULL,
           lease_until = CASE WHEN type = 'webhook' THEN clock_timestamp() + lease_ttl END,
           next_attempt_at = CASE WHEN type = 'webhook' THEN clock_timestamp() END
     WHERE number = wanted RETURNING * INTO s;
    woken := true;
    IF s.type = 'pull-wake' THEN
        BEGIN
            PERFORM run_gateway.append_event(s.wake_stream, jsonb_build_object(
                'type', 'wake', 'subscription_id', run_gateway.without_tenant(s.id),
                'stream', run_gateway.without_tenant(coalesce(trigger_path, first)),
                'generation', s.generation, 'ts', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint));
        EXCEPTION WHEN no_data_found OR object_not_in_prerequisite_state THEN
            GET STACKED DIAGNOSTICS lost_event = MESSAGE_TEXT;
        END;
    END IF;
END
$$;


-- Those idle subscriptions that one of these streams gives work to, each with such a stream.
CREATE OR REPLACE FUNCTION run_gateway.subscriptions_to_wake(paths text[], most integer)
RETURNS TABLE (subscription bigint, trigger_path text)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT l.subscription, min(l.path)
      FROM run_gateway.subscription_links l
      JOIN run_gateway.subscriptions s ON s.number = l.subscription AND s.wake_id IS NULL
      JOIN run_gateway.streams t ON t.id = l.stream AND t.tail > greatest(l.acked, 0) AND NOT t.gone
     WHERE l.path = ANY (paths) AND NOT l.settled AND run_gateway.live(t)
     GROUP BY l.subscription LIMIT most;
END
$$;


-- The look of every second: leases that have expired, and idle subscriptions with work that nobody saw to, because
-- the Machine that took the append has died.
CREATE OR REPLACE FUNCTION run_gateway.neglected_subscriptions(idle boolean, most integer) RETURNS SETOF bigint
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT s.number FROM run_gateway.subscriptions s
     WHERE CASE WHEN s.wake_id IS NULL THEN idle AND run_gateway.first_pending(s.number) IS NOT NULL
                ELSE s.lease_until <= clock_timestamp() END
     LIMIT most;
END;


-- Webhook deliveries that are due: first ones, retries, and those of Machines that died on the way. The caller has
-- `hold` to deliver each and report. The lease outlasts the attempt: a handler that answers at last has not failed.
CREATE OR REPLACE FUNCTION run_gateway.due_deliveries(hold interval, most integer, most_streams integer)
RETURNS TABLE (subscription bigint, id text, url text, wake_id text, generation bigint, retry_count integer,
               streams jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    FOR s IN
        SELECT * FROM run_gateway.subscriptions d
         WHERE d.next_attempt_at <= clock_timestamp() AND d.wake_id IS NOT NULL
         ORDER BY d.next_attempt_at LIMIT most FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        UPDATE run_gateway.subscriptions u
           SET next_attempt_at = clock_timestamp() + hold, lease_until = clock_timestamp() + hold + u.lease_ttl
         WHERE u.number = s.number;
        RETURN QUERY SELECT s.number, s.id, s.webhook_url, s.wake_id, s.generation, s.retry_count,
                            run_gateway.links_of(s.number, false, most_streams);
    END LOOP;
END
$$;


-- As Machines of the version before call it.
CREATE OR REPLACE FUNCTION run_gateway.claim_deliveries(hold interval, most integer, most_streams integer)
RETURNS TABLE (subscription bigint, id text, url text, wake_id text, generation bigint, retry_count integer,
               streams jsonb)
LANGUAGE sql AS $$
    SELECT d.subscription, d.id, d.url, d.wake_id, d.generation, d.retry_count,
           (SELECT coalesce(jsonb_agg(l.link - 5 ORDER BY l.i), '[]')
              FROM jsonb_array_elements(d.streams) WITH ORDINALITY AS l(link, i))
      FROM run_gateway.due_deliveries(hold, most, most_streams) d
$$;


-- The attempt is over: the handler has the wake and its lease begins (`retry_in` NULL), or the next attempt is due
-- after that time. Until then the wake stays in flight, so its lease is made to outlast the wait.
CREATE OR REPLACE FUNCTION run_gateway.report_delivery(wanted bigint, wanted_wake text, failed boolean, retry_in interval) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    UPDATE run_gateway.subscriptions
       SET next_attempt_at = clock_timestamp() + retry_in,
           retry_count = CASE WHEN failed THEN retry_count + 1 WHEN retry_in IS NULL THEN 0 ELSE retry_count END,
           lease_until = CASE WHEN retry_in IS NULL THEN clock_timestamp() + lease_ttl
                              ELSE greatest(lease_until, clock_timestamp() + retry_in + lease_ttl) END
     WHERE number = wanted AND wake_id = wanted_wake;
END;


-- §7.1: the handler answered `done`: acks what the wake told it of, and goes on with what has come since. `streams`:
-- those that were at the paths then; of a stream that was made anew there, nothing has been told yet.
CREATE OR REPLACE FUNCTION run_gateway.finish_delivery(
    wanted bigint, wanted_wake text, paths text[], positions bigint[], streams bigint[],
    OUT next_wake boolean, OUT lost_event text
)
LANGUAGE plpgsql AS $$
BEGIN
    next_wake := false;
    PERFORM 1 FROM run_gateway.subscriptions WHERE number = wanted AND wake_id = wanted_wake FOR NO KEY UPDATE;
    IF FOUND THEN
        PERFORM run_gateway.advance_links(wanted, paths, positions, streams);
        PERFORM run_gateway.end_wake(wanted);
        SELECT w.woken, w.lost_event INTO next_wake, lost_event FROM run_gateway.wake_subscription(wanted, NULL) w;
    END IF;
END
$$;


-- As Machines of the version before call it.
CREATE OR REPLACE FUNCTION run_gateway.finish_delivery(
    wanted bigint, wanted_wake text, paths text[], positions bigint[], OUT next_wake boolean, OUT lost_event text
)
LANGUAGE sql AS $$ SELECT * FROM run_gateway.finish_delivery(wanted, wanted_wake, paths, positions, NULL) $$;


-- `streams` NULL: whichever is at each path.
CREATE OR REPLACE FUNCTION run_gateway.advance_links(
    wanted bigint, paths text[], positions bigint[], streams bigint[]
) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    UPDATE run_gateway.subscription_links l
       SET acked = greatest(l.acked, p.acked), settled = s.closed AND greatest(l.acked, p.acked) >= s.tail
      FROM unnest(paths, positions, streams) AS a(path, position, stream), run_gateway.streams s,
           LATERAL (SELECT run_gateway.shared(a.position, s.tail, s.breaks) AS acked) p
     WHERE l.subscription = wanted AND l.path = a.path AND s.id = l.stream
       AND (streams IS NULL OR l.stream = a.stream);
END;


CREATE OR REPLACE FUNCTION run_gateway.end_wake(wanted bigint) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    UPDATE run_gateway.subscriptions
       SET wake_id = NULL, holder = NULL, lease_until = NULL, next_attempt_at = NULL, retry_count = 0
     WHERE number = wanted;
END;


-- §7.2: a worker takes the wake in flight, or makes one when there is work.
CREATE OR REPLACE FUNCTION run_gateway.claim_subscription(
    wanted text, worker text, most_streams integer,
    OUT verdict text, OUT wake_id text, OUT generation bigint, OUT holder text, OUT lease_ttl interval,
    OUT streams jsonb, OUT lost_event text
)
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    SELECT * INTO s FROM run_gateway.subscriptions u WHERE u.id = wanted FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        verdict := 'not_found';
    ELSIF s.type <> 'pull-wake' THEN
        verdict := 'wrong_type';
    ELSIF s.holder IS NOT NULL AND s.lease_until > clock_timestamp() THEN
        verdict := 'claimed'; holder := s.holder; generation := s.generation;
    ELSIF run_gateway.first_pending(s.number) IS NULL THEN
        -- The wake, if there is one, told of work that is there no more: it must not keep the next one back.
        PERFORM run_gateway.end_wake(s.number);
        verdict := 'no_work';
    ELSE
        SELECT w.lost_event INTO claim_subscription.lost_event FROM run_gateway.wake_subscription(s.number, NULL) w;
        UPDATE run_gateway.subscriptions u SET holder = worker, lease_until = clock_timestamp() + u.lease_ttl
         WHERE u.number = s.number RETURNING * INTO s;
        verdict := 'granted'; wake_id := s.wake_id; generation := s.generation; lease_ttl := s.lease_ttl;
        streams := run_gateway.linked_streams(s.number, false, most_streams);
    END IF;
END
$$;


-- §7.1 and §7.2: callback, ack and release. Nothing changes unless everything fits (§7.3): the token's and the
-- request's generation, the wake, its lease, and every ack. A position is NULL where the offset is none.
CREATE OR REPLACE FUNCTION run_gateway.settle_wake(
    wanted text, wanted_type text, token_generation bigint, claimed_generation bigint, claimed_wake text,
    paths text[], positions bigint[], done boolean,
    OUT verdict text, OUT next_wake boolean, OUT lost_event text
)
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    next_wake := false;
    SELECT * INTO s FROM run_gateway.subscriptions u WHERE u.id = wanted FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        verdict := 'not_found';
    ELSIF s.type <> wanted_type THEN
        verdict := 'wrong_type';
    ELSIF token_generation IS NULL THEN
        verdict := 'bad_token';
    ELSIF (s.generation, s.generation, s.wake_id) IS DISTINCT FROM (token_generation, claimed_generation, claimed_wake)
          OR s.wake_id IS NULL OR s.lease_until <= clock_timestamp() THEN
        verdict := 'fenced';
    ELSE
        SELECT CASE WHEN l.path IS NULL OR (l.stream IS NOT NULL AND t.id IS NULL) THEN 'unknown_stream'
                    WHEN a.position IS NULL THEN 'bad_offset'
                    WHEN run_gateway.known(a.position, coalesce(t.tail, 0), t.breaks) IS NULL THEN 'beyond_tail'
                    ELSE 'regressing' END AS fault
          INTO verdict
          FROM unnest(paths, positions) WITH ORDINALITY AS a(path, position, i)
          LEFT JOIN run_gateway.subscription_links l ON l.subscription = s.number AND l.path = a.path
          LEFT JOIN run_gateway.streams t ON t.id = l.stream AND NOT t.gone AND run_gateway.live(t)
         WHERE l.path IS NULL OR (l.stream IS NOT NULL AND t.id IS NULL) OR a.position IS NULL
            OR run_gateway.known(a.position, coalesce(t.tail, 0), t.breaks) < l.acked
            OR run_gateway.known(a.position, coalesce(t.tail, 0), t.breaks) IS NULL
         ORDER BY a.i LIMIT 1;
        IF FOUND THEN
            RETURN;
        END IF;
        verdict := 'settled';
        PERFORM run_gateway.advance_links(s.number, paths, positions, NULL);
        IF done THEN
            PERFORM run_gateway.end_wake(s.number);
            SELECT w.woken, w.lost_event INTO next_wake, lost_event FROM run_gateway.wake_subscription(s.number, NULL) w;
        ELSE
            -- Whoever calls has the wake: it need not be delivered again.
            UPDATE run_gateway.subscriptions u
               SET lease_until = clock_timestamp() + u.lease_ttl, next_attempt_at = NULL, retry_count = 0
             WHERE u.number = s.number;
        END IF;
    END IF;
END
$$;


-- Whether a link counts no more: its subscription is gone, or the stream that it was tied to.
CREATE OR REPLACE FUNCTION run_gateway.is_dead(l run_gateway.subscription_links) RETURNS boolean
LANGUAGE sql STABLE
RETURN NOT EXISTS (SELECT FROM run_gateway.subscriptions s WHERE s.number = l.subscription)
    OR (l.stream IS NOT NULL AND NOT EXISTS (
        SELECT FROM run_gateway.streams t WHERE t.id = l.stream AND NOT t.gone AND run_gateway.live(t)));


-- Of the next `most` links after one, takes away those that count no more (their subscription or their stream is gone) and
-- marks those that are settled. It waits for nobody, and nothing depends on it. `subscription` and `path`: the last one
-- that was looked at, NULL after the end. `touched`: how many rows it has changed.
CREATE OR REPLACE FUNCTION run_gateway.tidy_next(
    after_subscription bigint, after_path text, most integer, OUT subscription bigint, OUT path text, OUT touched bigint
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    subs  bigint[];
    paths text[];
    n     bigint;
BEGIN
    SELECT array_agg(x.subscription), array_agg(x.path) INTO subs, paths FROM (
        SELECT l.subscription, l.path FROM run_gateway.subscription_links l
         WHERE (l.subscription, l.path) > (after_subscription, after_path) ORDER BY l.subscription, l.path LIMIT most) x;
    subscription := subs[most];
    path := paths[most];
    touched := 0;
    IF subs IS NULL THEN
        RETURN;
    END IF;
    WITH dead AS (
        SELECT l.subscription, l.path FROM unnest(subs, paths) AS x(subscription, path)
          JOIN run_gateway.subscription_links l ON (l.subscription, l.path) = (x.subscription, x.path)
         WHERE run_gateway.is_dead(l) FOR UPDATE OF l SKIP LOCKED)
    SELECT array_agg(d.subscription), array_agg(d.path) INTO subs, paths FROM dead d;
    -- Judged once more now that they are locked: a stream made a moment ago may have taken a link over.
    DELETE FROM run_gateway.subscription_links l USING unnest(subs, paths) AS x(subscription, path)
     WHERE (l.subscription, l.path) = (x.subscription, x.path) AND run_gateway.is_dead(l);
    GET DIAGNOSTICS touched = ROW_COUNT;
    WITH looked AS (
        SELECT l.subscription, l.path, l.stream, l.acked FROM run_gateway.subscription_links l
         WHERE NOT l.settled AND (l.subscription, l.path) > (after_subscription, after_path)
           AND (tidy_next.subscription IS NULL OR (l.subscription, l.path) <= (tidy_next.subscription, tidy_next.path))
         ORDER BY l.subscription, l.path LIMIT most
    ), ended AS (
        SELECT l.subscription, l.path FROM looked k
          JOIN run_gateway.subscription_links l ON (l.subscription, l.path) = (k.subscription, k.path)
          JOIN run_gateway.streams t ON t.id = l.stream AND t.closed AND l.acked >= t.tail
         WHERE NOT l.settled FOR UPDATE OF l SKIP LOCKED)
    UPDATE run_gateway.subscription_links l SET settled = true
      FROM ended e WHERE (l.subscription, l.path) = (e.subscription, e.path);
    GET DIAGNOSTICS n = ROW_COUNT;
    touched := touched + n;
END
$$;


-- As Machines of the version before call it.
CREATE OR REPLACE FUNCTION run_gateway.tidy_links(most integer) RETURNS bigint
LANGUAGE sql AS $$ SELECT t.touched FROM run_gateway.tidy_next(0, '', most) t $$;
