-- What becomes of a subscription: each change is one function, made under its row lock.
--
-- Whether a link has work is known by its stream's tail alone, since an append writes nothing here. So that nobody has to walk
-- a million links, those with work are noted in subscription_work: by the Machine that hears of an append (work_of), and in steps
-- by looks that go through all (seek_work). Beside what is noted, the first thousand links that are open are asked, so that
-- a subscription of no more is always known exactly; work of a larger one that nobody has noted is found a little later.


-- Whether the stream at this path has events after the acked position.
CREATE OR REPLACE FUNCTION run_gateway.has_work(wanted bigint, wanted_path text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM run_gateway.subscription_links l JOIN run_gateway.streams s ON s.id = l.stream
         WHERE l.subscription = wanted AND l.path = wanted_path AND NOT l.settled AND s.tail > greatest(l.acked, 0)
           AND NOT s.gone AND run_gateway.live(s));
END
$$;


-- The first stream with events after its acked position that has been noted.
CREATE OR REPLACE FUNCTION run_gateway.first_noted(wanted bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN (
        SELECT w.path FROM (
            SELECT v.path FROM run_gateway.subscription_work v WHERE v.subscription = wanted ORDER BY v.path LIMIT 1000) w
         WHERE run_gateway.has_work(wanted, w.path) LIMIT 1);
END
$$;


-- One that is noted, or else the first of the first thousand; NULL when nothing is pending.
CREATE OR REPLACE FUNCTION run_gateway.first_pending(wanted bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN coalesce(run_gateway.first_noted(wanted), (
        SELECT l.path FROM (
            SELECT v.path, v.stream, v.acked FROM run_gateway.subscription_links v
             WHERE v.subscription = wanted AND NOT v.settled ORDER BY v.path LIMIT 1000) l
          JOIN run_gateway.streams s ON s.id = l.stream
         WHERE s.tail > greatest(l.acked, 0) AND NOT s.gone AND run_gateway.live(s)
         ORDER BY l.path LIMIT 1));
END
$$;


-- The streams of a subscription, as [path, explicit, acked, tail, pending, stream], those with work first: of what is
-- noted, the first thousand that are open, and with `with_settled` the first of all. Without it those are left out that
-- will never have work again.
CREATE OR REPLACE FUNCTION run_gateway.links_of(wanted bigint, with_settled boolean, most integer) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    paths text[];
BEGIN
    paths := ARRAY(
        (SELECT w.path FROM run_gateway.subscription_work w WHERE w.subscription = wanted ORDER BY w.path LIMIT least(most, 1000))
        UNION
        (SELECT l.path FROM run_gateway.subscription_links l
          WHERE l.subscription = wanted AND NOT l.settled ORDER BY l.path LIMIT 1000)
        UNION
        (SELECT l.path FROM run_gateway.subscription_links l
          WHERE l.subscription = wanted AND with_settled ORDER BY l.path LIMIT most));
    RETURN (
        SELECT coalesce(jsonb_agg(jsonb_build_array(v.path, v.explicit, v.acked, v.tail, v.pending, v.stream)
                                  ORDER BY v.pending DESC, v.path), '[]')
          FROM (SELECT l.path, l.explicit, run_gateway.marked(l.acked, s.breaks) AS acked, l.stream,
                       coalesce(run_gateway.marked(s.tail, s.breaks), 0) AS tail,
                       coalesce(s.tail, 0) > greatest(l.acked, 0) AS pending
                  FROM unnest(paths) AS p(path)
                  JOIN run_gateway.subscription_links l ON l.subscription = wanted AND l.path = p.path
                  LEFT JOIN run_gateway.streams s ON s.id = l.stream
                 WHERE (with_settled OR NOT l.settled)
                   AND (l.stream IS NULL OR (NOT s.gone AND run_gateway.live(s)))
                 ORDER BY pending DESC, l.path LIMIT most) v);
END
$$;


-- The same without which stream each is.
CREATE OR REPLACE FUNCTION run_gateway.linked_streams(wanted bigint, with_settled boolean, most integer) RETURNS jsonb
LANGUAGE sql STABLE
RETURN (SELECT coalesce(jsonb_agg(l.link - 5 ORDER BY l.i), '[]')
          FROM jsonb_array_elements(run_gateway.links_of(wanted, with_settled, most)) WITH ORDINALITY AS l(link, i));


-- Whether the wake in flight waits for a worker, but its event is nowhere: the wake stream has been deleted meanwhile, and
-- there is none or another one at its path.
CREATE OR REPLACE FUNCTION run_gateway.is_untold(s run_gateway.subscriptions) RETURNS boolean
LANGUAGE sql STABLE
RETURN s.type = 'pull-wake' AND s.wake_id IS NOT NULL AND s.lease_until IS NULL AND NOT EXISTS (
    SELECT FROM run_gateway.streams t
     WHERE t.id = s.told AND t.path = s.wake_stream AND NOT t.gone AND run_gateway.live(t));


-- Writes a pull-wake's event; to which stream, or why not. Waits for nobody that holds the stream for long.
CREATE OR REPLACE FUNCTION run_gateway.tell_wake(
    s run_gateway.subscriptions, trigger_path text, OUT told bigint, OUT lost_event text
)
LANGUAGE plpgsql
SET lock_timeout = '200ms'
AS $$
BEGIN
    PERFORM run_gateway.append_event(s.wake_stream, jsonb_build_object(
        'type', 'wake', 'subscription_id', run_gateway.without_tenant(s.id),
        'stream', run_gateway.without_tenant(trigger_path),
        'generation', s.generation, 'ts', floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint));
    SELECT t.id INTO told FROM run_gateway.streams t WHERE t.path = s.wake_stream;
EXCEPTION
    WHEN lock_not_available THEN   -- first, for it is of the class that the next one stands for
        lost_event := format('Another transaction holds stream %s.', s.wake_stream);
    WHEN no_data_found OR object_not_in_prerequisite_state THEN
        GET STACKED DIAGNOSTICS lost_event = MESSAGE_TEXT;
END
$$;


-- §7: wakes the subscription when it is idle and has work; of many Machines that try, one does. A lease that has
-- expired is cleared first (§7.3). `lost_event`: why no event could be written to the wake stream; then nobody has been
-- woken, and the wake is due again after a pause, which grows from one second to a minute. `unwritable`: what is known
-- to keep it from being written, so that it is not tried.
CREATE OR REPLACE FUNCTION run_gateway.wake_unless(
    wanted bigint, trigger_path text, unwritable text, OUT woken boolean, OUT lost_event text
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
        s.next_attempt_at := NULL;
    END IF;
    IF s.number IS NULL OR (s.wake_id IS NOT NULL AND NOT run_gateway.is_untold(s))
       OR (s.type = 'pull-wake' AND s.next_attempt_at > clock_timestamp()) THEN
        RETURN;
    END IF;
    first := CASE WHEN run_gateway.has_work(wanted, trigger_path) THEN trigger_path ELSE run_gateway.first_pending(wanted) END;
    IF first IS NULL THEN
        RETURN;
    END IF;
    IF s.wake_id IS NULL THEN
        s.generation := s.generation + 1;
        s.wake_id := 'w_' || replace(gen_random_uuid()::text, '-', '');
    END IF;
    IF s.type = 'pull-wake' THEN
        lost_event := unwritable;
        IF lost_event IS NULL THEN
            SELECT t.told, t.lost_event INTO s.told, lost_event
              FROM run_gateway.tell_wake(s, coalesce(trigger_path, first)) t;
        END IF;
        IF lost_event IS NOT NULL THEN
            UPDATE run_gateway.subscriptions
               SET wake_error = lost_event, retry_count = retry_count + 1,
                   next_attempt_at = clock_timestamp() + interval '1 s' * least(2 ^ least(retry_count, 6), 60) * (0.8 + random() * 0.4)
             WHERE number = wanted;
            RETURN;
        END IF;
    END IF;
    UPDATE run_gateway.subscriptions
       SET generation = s.generation, wake_id = s.wake_id, holder = NULL, told = s.told, wake_error = NULL,
           retry_count = CASE WHEN type = 'webhook' THEN retry_count ELSE 0 END,
           lease_until = CASE WHEN type = 'webhook' THEN clock_timestamp() + lease_ttl END,
           next_attempt_at = CASE WHEN type = 'webhook' THEN clock_timestamp() END
     WHERE number = wanted;
    woken := true;
END
$$;

CREATE OR REPLACE FUNCTION run_gateway.wake_subscription(
    wanted bigint, trigger_path text, OUT woken boolean, OUT lost_event text
)
LANGUAGE sql AS $$ SELECT w.woken, w.lost_event FROM run_gateway.wake_unless(wanted, trigger_path, NULL) w $$;


-- What wake_subscription does, for each of many by itself. It waits for nobody: `held` are those whose row, or whose wake
-- stream, another session holds. If `patient` it waits a moment for one wake stream, and sees to those alone that are
-- written to it. `late` are those that it has left, so as to end soon; `lost_events` tells of wakes that could not be
-- written, `faults` of what nobody expected: it has cost that subscription its turn, and no other.
CREATE OR REPLACE FUNCTION run_gateway.wake_subscriptions(
    wanted bigint[], trigger_paths text[], patient boolean,
    OUT woken integer, OUT held bigint[], OUT late bigint[], OUT lost_events text[], OUT faults text[]
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
SET lock_timeout = '200ms'
AS $$
DECLARE
    until      timestamptz;
    mine       bigint[];
    streams    text[];
    busy       text[] := '{}';
    unwritable text;
    begun      boolean := false;
    each       record;
    wake       record;
    reason     text;
BEGIN
    woken := 0; held := '{}'; late := '{}'; lost_events := '{}'; faults := '{}';
    SELECT coalesce(array_agg(l.number), '{}') INTO mine FROM (
        SELECT s.number FROM run_gateway.subscriptions s WHERE s.number = ANY (wanted) FOR NO KEY UPDATE SKIP LOCKED) l;
    SELECT coalesce(array_agg(DISTINCT s.wake_stream), '{}') INTO streams
      FROM run_gateway.subscriptions s WHERE s.number = ANY (mine) AND s.type = 'pull-wake';
    IF patient THEN
        busy := streams[2:];
        streams := streams[:1];
        BEGIN
            PERFORM 1 FROM run_gateway.streams t WHERE t.path = streams[1] FOR NO KEY UPDATE;
        EXCEPTION WHEN lock_not_available THEN
            unwritable := format('Another transaction holds stream %s.', streams[1]);
        END;
    ELSE
        SELECT coalesce(array_agg(l.path), '{}') INTO busy FROM (
            SELECT t.path FROM run_gateway.streams t WHERE t.path = ANY (streams) FOR NO KEY UPDATE SKIP LOCKED) l;
        SELECT coalesce(array_agg(t.path), '{}') INTO busy
          FROM run_gateway.streams t WHERE t.path = ANY (streams) AND t.path <> ALL (busy);
    END IF;
    until := clock_timestamp() + interval '100 ms';
    FOR each IN
        SELECT s.number, s.id, w.trigger_path, CASE WHEN s.type = 'pull-wake' THEN s.wake_stream END AS wake_stream
          FROM unnest(wanted, trigger_paths) WITH ORDINALITY AS w(number, trigger_path, i)
          JOIN run_gateway.subscriptions s ON s.number = w.number ORDER BY w.i
    LOOP
        IF each.number <> ALL (mine) OR each.wake_stream = ANY (busy) THEN
            held := held || each.number;
        ELSIF begun AND clock_timestamp() > until THEN
            late := late || each.number;
        ELSE
            begun := true;
            BEGIN
                SELECT * INTO wake FROM run_gateway.wake_unless(
                    each.number, each.trigger_path, CASE WHEN each.wake_stream IS NOT NULL THEN unwritable END);
                woken := woken + wake.woken::integer;
                lost_events := lost_events || array_remove(ARRAY[wake.lost_event], NULL);
            EXCEPTION WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS reason = MESSAGE_TEXT;
                faults := faults || format('%s: %s', each.id, reason);
            END;
        END IF;
    END LOOP;
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
       AND (s.next_attempt_at IS NULL OR s.next_attempt_at <= clock_timestamp())   -- else the last one could not be written
      JOIN run_gateway.streams t ON t.id = l.stream AND t.tail > greatest(l.acked, 0) AND NOT t.gone
     WHERE l.path = ANY (paths) AND NOT l.settled AND run_gateway.live(t)
     GROUP BY l.subscription LIMIT most;
END
$$;


-- The same, and notes that there is work, for whomever it is.
CREATE OR REPLACE FUNCTION run_gateway.work_of(paths text[], most integer)
RETURNS TABLE (subscription bigint, trigger_path text)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
SET lock_timeout = '500ms'
AS $$
BEGIN
    INSERT INTO run_gateway.subscription_work AS w (subscription, path)
    SELECT l.subscription, l.path
      FROM run_gateway.subscription_links l JOIN run_gateway.streams t ON t.id = l.stream
     WHERE l.path = ANY (paths) AND NOT l.settled AND t.tail > greatest(l.acked, 0) AND NOT t.gone AND run_gateway.live(t)
     ORDER BY l.subscription, l.path
    ON CONFLICT ON CONSTRAINT subscription_work_pkey DO NOTHING;
    RETURN QUERY SELECT * FROM run_gateway.subscriptions_to_wake(paths, most);
END
$$;


-- Goes through the next `most` open links after one, and notes those with work that nobody has noted: because the Machine
-- that took the append has died, say. `subscription` and `path`: the last one that was looked at, NULL after the end.
CREATE OR REPLACE FUNCTION run_gateway.seek_work(
    after_subscription bigint, after_path text, most integer, OUT subscription bigint, OUT path text
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
SET lock_timeout = '500ms'
AS $$
DECLARE
    subs    bigint[];
    paths   text[];
    streams bigint[];
    acked   bigint[];
BEGIN
    SELECT array_agg(x.subscription), array_agg(x.path), array_agg(x.stream), array_agg(x.acked)
      INTO subs, paths, streams, acked FROM (
        SELECT l.subscription, l.path, l.stream, l.acked FROM run_gateway.subscription_links l
         WHERE NOT l.settled AND (l.subscription, l.path) > (after_subscription, after_path)
         ORDER BY l.subscription, l.path LIMIT most) x;
    INSERT INTO run_gateway.subscription_work AS w (subscription, path)
    SELECT x.subscription, x.path
      FROM unnest(subs, paths, streams, acked) WITH ORDINALITY AS x(subscription, path, stream, acked, i)
      JOIN run_gateway.streams t ON t.id = x.stream
     WHERE t.tail > greatest(x.acked, 0) AND NOT t.gone AND run_gateway.live(t) ORDER BY x.i
    ON CONFLICT ON CONSTRAINT subscription_work_pkey DO NOTHING;
    subscription := subs[most];
    path := paths[most];
END
$$;


-- The look of every second: leases that have expired, and subscriptions with work that nobody saw to, because their wake
-- could not be written, or has gone with its stream; each with a stream that gives it work, if that is why.
CREATE OR REPLACE FUNCTION run_gateway.overdue_subscriptions(idle boolean, most integer)
RETURNS TABLE (subscription bigint, trigger_path text)
LANGUAGE sql STABLE BEGIN ATOMIC
    SELECT s.number, w.path
      FROM run_gateway.subscriptions s
      LEFT JOIN LATERAL (
        SELECT run_gateway.first_noted(s.number) AS path
         WHERE s.lease_until IS NULL AND idle AND (s.wake_id IS NULL OR run_gateway.is_untold(s))
           AND (s.next_attempt_at IS NULL OR s.next_attempt_at <= clock_timestamp())) w ON true
     WHERE s.lease_until <= clock_timestamp() OR w.path IS NOT NULL
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
         WHERE d.next_attempt_at <= clock_timestamp() AND d.wake_id IS NOT NULL AND d.type = 'webhook'
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


-- Deliveries that are due, of each tenant and host in turn: at most `most_each` for a host, those of a tenant that has
-- many after the first ones of the others. Claims nothing.
CREATE OR REPLACE FUNCTION run_gateway.due_webhooks(most_each integer, most integer)
RETURNS TABLE (subscription bigint, tenant text, host text)
LANGUAGE sql STABLE AS $$
    SELECT t.number, t.tenant, t.host FROM (
        SELECT h.*, row_number() OVER (PARTITION BY h.tenant ORDER BY h.nth, h.next_attempt_at, h.number) AS turn FROM (
            SELECT s.number, s.tenant, s.next_attempt_at, x.host,
                   row_number() OVER (PARTITION BY s.tenant, x.host ORDER BY s.next_attempt_at, s.number) AS nth
              FROM run_gateway.subscriptions s,
                   LATERAL (SELECT lower(substring(s.webhook_url FROM '^[^:]*://([^/?#]*)')) AS host) x
             WHERE s.type = 'webhook' AND s.wake_id IS NOT NULL AND s.next_attempt_at <= clock_timestamp()) h
         WHERE h.nth <= most_each) t
     ORDER BY t.turn, t.next_attempt_at, t.number LIMIT most
$$;


-- Claims some of them, as `due_deliveries` does.
CREATE OR REPLACE FUNCTION run_gateway.claim_webhooks(wanted bigint[], hold interval, most_streams integer)
RETURNS TABLE (subscription bigint, id text, url text, wake_id text, generation bigint, retry_count integer,
               streams jsonb)
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    FOR s IN
        SELECT * FROM run_gateway.subscriptions d
         WHERE d.number = ANY (wanted) AND d.next_attempt_at <= clock_timestamp() AND d.wake_id IS NOT NULL
           AND d.type = 'webhook' FOR NO KEY UPDATE SKIP LOCKED
    LOOP
        UPDATE run_gateway.subscriptions u
           SET next_attempt_at = clock_timestamp() + hold, lease_until = clock_timestamp() + hold + u.lease_ttl
         WHERE u.number = s.number;
        RETURN QUERY SELECT s.number, s.id, s.webhook_url, s.wake_id, s.generation, s.retry_count,
                            run_gateway.links_of(s.number, false, most_streams);
    END LOOP;
END
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
LANGUAGE plpgsql
SET lock_timeout = '500ms'   -- see membership.sql
AS $$
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


-- These are noted no more, unless there is work.
CREATE OR REPLACE FUNCTION run_gateway.unnote(wanted bigint, paths text[]) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    DELETE FROM run_gateway.subscription_work w
     WHERE w.subscription = wanted AND w.path = ANY (paths) AND NOT run_gateway.has_work(wanted, w.path);
END
$$;


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
    SELECT run_gateway.unnote(wanted, paths);
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
        -- The worker has come by itself, whether or not the wake could be written.
        UPDATE run_gateway.subscriptions u
           SET generation = u.generation + (u.wake_id IS NULL)::integer,
               wake_id = coalesce(u.wake_id, 'w_' || replace(gen_random_uuid()::text, '-', '')),
               holder = worker, lease_until = clock_timestamp() + u.lease_ttl, next_attempt_at = NULL
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
LANGUAGE plpgsql
SET lock_timeout = '500ms'   -- see membership.sql
AS $$
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
            -- The caller has the wake: it need not be delivered again.
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
    subs    bigint[];
    paths   text[];
    streams bigint[];
    n       bigint;
    until_subscription bigint;
    until_path         text;
BEGIN
    SELECT array_agg(x.subscription), array_agg(x.path), array_agg(x.stream) INTO subs, paths, streams FROM (
        SELECT l.subscription, l.path, l.stream FROM run_gateway.subscription_links l
         WHERE (l.subscription, l.path) > (after_subscription, after_path) ORDER BY l.subscription, l.path LIMIT most) x;
    subscription := subs[most];
    path := paths[most];
    until_subscription := coalesce(subscription, 9223372036854775807);
    until_path := coalesce(path, '');
    touched := 0;
    -- Most are plainly alive, which is seen here for a third of the price of a call of is_dead.
    SELECT array_agg(x.subscription), array_agg(x.path) INTO subs, paths
      FROM unnest(subs, paths, streams) AS x(subscription, path, stream)
     WHERE NOT EXISTS (SELECT FROM run_gateway.subscriptions s WHERE s.number = x.subscription)
        OR NOT EXISTS (
            SELECT FROM run_gateway.streams t
             WHERE t.id = x.stream AND t.path IS NOT NULL AND NOT t.gone
               AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp()));
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
           AND (l.subscription, l.path) <= (until_subscription, until_path)
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
    -- And of what is noted between these links that which is no work any more.
    DELETE FROM run_gateway.subscription_work w
     WHERE w.ctid = ANY (ARRAY(
            SELECT v.ctid FROM (
                SELECT k.ctid, k.subscription, k.path FROM run_gateway.subscription_work k
                 WHERE (k.subscription, k.path) > (after_subscription, after_path)
                   AND (k.subscription, k.path) <= (until_subscription, until_path)
                 ORDER BY k.subscription, k.path LIMIT most) v
             WHERE NOT run_gateway.has_work(v.subscription, v.path)))
       AND NOT run_gateway.has_work(w.subscription, w.path);
    GET DIAGNOSTICS n = ROW_COUNT;
    touched := touched + n;
END
$$;
