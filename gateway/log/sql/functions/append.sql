-- How events come into the log.
--
-- An append has four ways, one set of rules (verdict), and the same outcome by each. In µs of Postgres a request (18.6; the
-- least of 40 rounds on a shared machine, `python -m loadtests.probes.appends`), without the commit, which costs all alike:
--
--                                                            alone   2 in a call   16     64
--     append_alone  a lone request that only appends          51
--     append_one    a lone request                            60
--     append_plain  many that only append, all of one kind                 32     11      8
--     append_batch  any                                      119           52     26     16
--
-- What every append asks sets no search path, which would cost it some microseconds: there, what takes any type is named
-- with its schema, for another role may have put a more fitting one of that name into another (waiting.sql).
--
-- A snapshot that stays open, as a dump's, keeps every version of a stream's row, and the indexes show all of them, oldest
-- first. So an append asks for its path backwards, takes the first version that it sees, and changes it at its place (ctid):
-- it looks at a few versions, and not at as many as there were appends. Only append_plain, which saves a tenth by it, does
-- not: where it has looked at many, its session goes without it for a second.


-- The pieces of something long. As an array of them the driver would copy the bytes once more, while its process does
-- nothing else: 10 MiB hold it for 14 ms and not for 22.
CREATE OR REPLACE FUNCTION run_gateway.cut(whole bytea, sizes integer[]) RETURNS bytea[] LANGUAGE sql IMMUTABLE
RETURN (
    SELECT COALESCE(pg_catalog.array_agg(
               pg_catalog.substring(whole, (p.ends OPERATOR(pg_catalog.-) p.size OPERATOR(pg_catalog.+) 1)::integer, p.size)
               ORDER BY p.i), '{}')
      FROM (SELECT u.size, u.i, pg_catalog.sum(u.size) OVER (ORDER BY u.i) AS ends
              FROM pg_catalog.unnest(sizes) WITH ORDINALITY AS u(size, i)) p
);

-- What becomes of one request (§5.2, §5.2.1): 'appended', 'duplicate' (a success that changes nothing), or a refusal.
-- First what the stream is (id NULL: it is not there), then what is known of the producer, then what is asked for.
CREATE OR REPLACE FUNCTION run_gateway.verdict(
    id bigint, gone boolean, closed boolean, media_type text, stream_seq text,
    closing_producer text, closing_epoch bigint, closing_seq bigint, known_epoch bigint, known_seq bigint,
    n integer, closing boolean, wanted_type text, wanted_seq text, producer text, epoch bigint, seq bigint
) RETURNS text LANGUAGE sql IMMUTABLE
RETURN CASE
    WHEN id IS NULL THEN 'not_found'
    WHEN gone THEN 'gone'
    -- Closed is judged first; the very request that closed the stream may be repeated.
    WHEN closed AND closing AND n = 0 AND producer IS NULL THEN 'duplicate'
    WHEN closed AND (closing_producer, closing_epoch, closing_seq) = (producer, epoch, seq) THEN 'duplicate'
    WHEN closed THEN 'closed'
    WHEN n > 0 AND wanted_type IS DISTINCT FROM media_type THEN 'content_type'
    -- A repetition is known as one before Stream-Seq is looked at.
    WHEN producer IS NOT NULL AND known_epoch IS NULL AND seq > 0 THEN 'sequence_gap'
    WHEN epoch < known_epoch THEN 'stale_epoch'
    WHEN seq < 0 THEN 'appended'  -- a heartbeat: it tells its epoch, and counts as no request
    WHEN epoch > known_epoch AND seq > 0 THEN 'epoch_start'
    WHEN epoch = known_epoch AND seq <= known_seq THEN 'duplicate'
    WHEN epoch = known_epoch AND seq > known_seq + 1 THEN 'sequence_gap'
    WHEN wanted_seq COLLATE "C" <= stream_seq THEN 'stream_seq'
    ELSE 'appended'
END;


-- Who appends to a run that was ended because its producer had been lost is told so ('lost'), and not that it is closed:
-- the producers of before by their epoch, those that never appended, and whoever gives no name. A later epoch of one that
-- did finds it closed like any other.
CREATE OR REPLACE FUNCTION run_gateway.fence(
    lost boolean, producer text, epoch bigint, known_epoch bigint, verdict text
) RETURNS text LANGUAGE sql IMMUTABLE
RETURN CASE WHEN lost AND verdict = 'closed' AND (producer IS NULL OR known_epoch IS NULL OR epoch < known_epoch) THEN 'lost' ELSE verdict END;


-- When a stream expires, and when the lease of a run does, after a sign of life at this moment.
CREATE OR REPLACE FUNCTION run_gateway.slid(ttl bigint, expires_at timestamptz) RETURNS timestamptz LANGUAGE sql
RETURN CASE WHEN ttl IS NULL THEN expires_at ELSE clock_timestamp() + ttl * interval '1 second' END;

CREATE OR REPLACE FUNCTION run_gateway.leased_until(lease integer) RETURNS timestamptz LANGUAGE sql
RETURN CASE WHEN lease IS NOT NULL THEN clock_timestamp() + lease * interval '1 second' END;


-- These tails as positions, after their streams have been appended to.
CREATE OR REPLACE FUNCTION run_gateway.marked_tails(paths text[], tails bigint[]) RETURNS bigint[]
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN ARRAY(
        SELECT run_gateway.marked(run_gateway.number(t.tail), s.breaks)
          FROM unnest(paths, tails) WITH ORDINALITY AS t(path, tail, i)
          LEFT JOIN LATERAL (SELECT v.breaks FROM run_gateway.streams v
                              WHERE v.path >= t.path AND v.path <= t.path ORDER BY v.path DESC LIMIT 1) s ON true
         ORDER BY t.i);
END
$$;


-- What append_batch does, in half the time, for requests of one media type and `count` events each, that name no producer,
-- no Stream-Seq and no lease, and close nothing: whether one of these is accepted is decided by its stream's row alone. So one
-- statement finds the rows, waits for them in the same order, judges each as it is by then (Postgres asks its WHERE once
-- more of a row that it had to wait for), and changes them. The table is joined with nothing: its index is asked for one
-- path after the other, and there is no other plan, also for a session that has planned on an empty table.
-- Before Postgres 18 a plan with a join that is switched off is priced so high that JIT compiles it, a second each time.
CREATE OR REPLACE FUNCTION run_gateway.append_plain(
    paths text[], media_type text, count integer,
    event_entries integer[], event_ordinals integer[], events bytea[],
    OUT verdicts text[], OUT tails bigint[], OUT closed boolean[], OUT known_epochs bigint[], OUT known_seqs bigint[],
    OUT cancels boolean[]
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    n     integer := pg_catalog.cardinality(paths);
    done  bigint[];
    moved bigint[];  -- of the streams, those that another server wrote last
BEGIN
    WITH appended AS (
        UPDATE run_gateway.streams s
           SET tail = s.tail + count, packed = s.packed AND count = 0, expires_at = run_gateway.slid(s.ttl, s.expires_at),
               lease_until = run_gateway.leased_until(s.lease)
         WHERE s.path = ANY (paths) AND run_gateway.live(s)
           AND run_gateway.verdict(
                   s.id, s.gone, s.closed, s.media_type, NULL, NULL, NULL, NULL, NULL, NULL,
                   count, false, append_plain.media_type, NULL, NULL, NULL, NULL) = 'appended'
        RETURNING s.path, s.id, s.tail, s.cancel_requested, s.served, s.breaks
    ), numbered AS (
        SELECT e.i, a.id, a.tail, a.cancel_requested, a.served, a.breaks
          FROM pg_catalog.unnest(paths) WITH ORDINALITY AS e(path, i) JOIN appended a ON a.path = e.path
    ), added AS (
        INSERT INTO run_gateway.events (stream, seq, data)
        SELECT a.id, a.tail - count + e.ordinal, e.data
          FROM unnest(event_entries, event_ordinals, events) AS e(entry, ordinal, data)
          JOIN numbered a ON a.i = e.entry
    )
    SELECT pg_catalog.array_agg(a.i), pg_catalog.array_agg(run_gateway.marked(a.tail, a.breaks)), pg_catalog.array_agg(a.cancel_requested),
           pg_catalog.array_agg(a.id) FILTER (WHERE a.served IS DISTINCT FROM pg_postmaster_start_time())
      INTO done, tails, cancels, moved
      FROM (SELECT * FROM numbered ORDER BY i) a;  -- in any plan: each is told its own tail
    IF moved IS NOT NULL THEN
        PERFORM run_gateway.enter_epoch(moved, count);
        tails := run_gateway.marked_tails(
            ARRAY(SELECT paths[d.i] FROM pg_catalog.unnest(done) WITH ORDINALITY AS d(i, n) ORDER BY d.n), tails);
    END IF;
    IF pg_catalog.cardinality(done) = n THEN
        verdicts := pg_catalog.array_fill('appended'::text, ARRAY[n]);
        closed := pg_catalog.array_fill(false, ARRAY[n]);
        known_epochs := pg_catalog.array_fill(NULL::bigint, ARRAY[n]);
        known_seqs := known_epochs;
        RETURN;
    END IF;

    -- Of what no row was found for, none changes any more: a stream that is closed, or of another type, stays so. One
    -- that could take the request now was not there when it was looked for.
    SELECT pg_catalog.array_agg(CASE WHEN d.i IS NOT NULL THEN 'appended' ELSE r.verdict END ORDER BY e.i),
           pg_catalog.array_agg(coalesce(d.tail, r.tail) ORDER BY e.i),
           pg_catalog.array_agg(CASE WHEN d.i IS NOT NULL THEN false ELSE r.closed END ORDER BY e.i),
           pg_catalog.array_agg(r.closing_epoch ORDER BY e.i), pg_catalog.array_agg(r.closing_seq ORDER BY e.i),
           pg_catalog.array_agg(coalesce(d.cancel_requested, r.cancel_requested) ORDER BY e.i)
      INTO verdicts, tails, closed, known_epochs, known_seqs, cancels
      FROM pg_catalog.unnest(paths) WITH ORDINALITY AS e(path, i)
      LEFT JOIN unnest(done, tails, cancels) AS d(i, tail, cancel_requested) ON d.i = e.i
      LEFT JOIN LATERAL run_gateway.refused(e.path, append_plain.media_type, count) r ON d.i IS NULL;
END
$$;


-- Why a request of that kind was not accepted. The state is NULL where there was no such stream.
CREATE OR REPLACE FUNCTION run_gateway.refused(
    path text, media_type text, n integer,
    OUT verdict text, OUT tail bigint, OUT closed boolean, OUT closing_epoch bigint, OUT closing_seq bigint,
    OUT cancel_requested boolean
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s record;
BEGIN
    SELECT v.* INTO s FROM run_gateway.streams v
     WHERE v.path >= refused.path AND v.path <= refused.path AND run_gateway.live(v) ORDER BY v.path DESC LIMIT 1;
    verdict := run_gateway.fence(s.lost, NULL, NULL, NULL, run_gateway.verdict(
        s.id, s.gone, s.closed, s.media_type, NULL, NULL, NULL, NULL, NULL, NULL,
        n, false, media_type, NULL, NULL, NULL, NULL));
    IF verdict = 'appended' THEN
        verdict := 'not_found';
    ELSE
        tail := run_gateway.marked(s.tail, s.breaks);
        closed := s.closed;
        cancel_requested := s.cancel_requested;
        IF s.closed AND NOT s.lost THEN
            closing_epoch := s.closing_epoch;
            closing_seq := s.closing_seq;
        END IF;
    END IF;
END
$$;


-- Judges one request per stream and appends what is accepted. Each path stands at most once in `paths`, in ascending
-- order (the writer sees to it): every judgement is independent of its neighbours, and no two batches can wait for
-- each other. `tails` and `closed` are the streams' state afterwards, `known_*` the producers'. `leases`: seconds that a
-- run's producer promises a sign of life within, from now on. `cancels`: whether the run has been asked to stop.
--
-- The plans must use the indexes whatever the statistics say (a session may have planned on empty tables): hence SET.
CREATE OR REPLACE FUNCTION run_gateway.append_batch(
    paths text[], media_types text[], counts integer[], closes boolean[], stream_seqs text[],
    producers text[], epochs bigint[], seqs bigint[],
    event_entries integer[], event_ordinals integer[], events bytea[], leases integer[],
    OUT verdicts text[], OUT tails bigint[], OUT closed boolean[], OUT known_epochs bigint[], OUT known_seqs bigint[],
    OUT cancels boolean[]
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ids     bigint[];  -- 0 where the request is not accepted
    bases   bigint[];  -- the tail before this append
    moved   bigint[];  -- of the streams that get events, those that another server wrote last
    epochal boolean;   -- whether one has several epochs
    places  tid[];     -- of the streams' rows, where the request is accepted
    known   tid[];     -- and of what is known of the producers
    added   integer;
BEGIN
    -- Locked first, and judged by the next statement, which sees what was committed until the locks were had. What
    -- this one does not find was not there: judging it without a lock would be wrong, should it appear just now.
    IF true = ANY (closes) THEN
        PERFORM run_gateway.lock_closing(paths, closes);
    END IF;
    SELECT pg_catalog.array_agg(s.ctid) INTO places
      FROM pg_catalog.unnest(paths) WITH ORDINALITY AS e(path, i)
      LEFT JOIN LATERAL (
        SELECT v.ctid FROM run_gateway.streams v WHERE v.path >= e.path AND v.path <= e.path AND run_gateway.live(v)
         ORDER BY v.path DESC LIMIT 1 FOR NO KEY UPDATE) s ON true;

    SELECT pg_catalog.array_agg(CASE WHEN j.verdict = 'appended' THEN j.id ELSE 0 END), pg_catalog.array_agg(j.tail), pg_catalog.array_agg(j.verdict),
           pg_catalog.array_agg(CASE WHEN j.verdict = 'appended' THEN j.tail + j.n ELSE j.tail END),
           pg_catalog.array_agg(j.was_closed OR (j.verdict = 'appended' AND j.closing)),
           pg_catalog.array_agg(CASE WHEN j.verdict = 'appended' THEN j.epoch ELSE j.known_epoch END),
           pg_catalog.array_agg(CASE WHEN j.verdict = 'appended' THEN j.seq ELSE j.known_seq END),
           pg_catalog.array_agg(j.cancel_requested), pg_catalog.bool_or(j.breaks IS NOT NULL),
           pg_catalog.array_agg(j.id) FILTER (WHERE j.verdict = 'appended' AND j.n > 0
                                     AND j.served IS DISTINCT FROM pg_postmaster_start_time()),
           pg_catalog.array_agg(CASE WHEN j.verdict = 'appended' THEN j.place END),
           pg_catalog.array_agg(CASE WHEN j.verdict = 'appended' AND j.seq >= 0 THEN j.known END)
      INTO ids, bases, verdicts, tails, closed, known_epochs, known_seqs, cancels, epochal, moved, places, known
      FROM (
        SELECT e.n, e.closing, e.epoch, e.seq, e.place, p.ctid AS known, s.id, s.tail, s.closed AS was_closed, s.cancel_requested, s.served, s.breaks,
               CASE WHEN s.closed AND NOT s.lost THEN s.closing_epoch ELSE p.epoch END AS known_epoch,
               CASE WHEN s.closed AND NOT s.lost THEN s.closing_seq ELSE p.seq END AS known_seq,
               run_gateway.verdict(
                   s.id, s.gone, s.closed, s.media_type, s.stream_seq, s.closing_producer, s.closing_epoch,
                   s.closing_seq, p.epoch, p.seq,
                   e.n, e.closing, e.media_type, e.stream_seq, e.producer, e.epoch, e.seq) AS verdict
          FROM unnest(places, media_types, counts, closes, stream_seqs, producers, epochs, seqs) WITH ORDINALITY
               AS e(place, media_type, n, closing, stream_seq, producer, epoch, seq, i)
          LEFT JOIN LATERAL (SELECT * FROM run_gateway.streams s WHERE s.ctid = e.place LIMIT 1) s ON true
          LEFT JOIN LATERAL (
            SELECT p.epoch, p.seq, p.ctid FROM run_gateway.producers p
             WHERE p.stream = s.id AND p.producer >= e.producer AND p.producer <= e.producer
             ORDER BY p.producer DESC LIMIT 1) p ON true
         ORDER BY e.i
      ) j;
    IF 'closed' = ANY (verdicts) THEN
        SELECT pg_catalog.array_agg(run_gateway.fence(s.lost, e.producer, e.epoch, e.known_epoch, e.verdict) ORDER BY e.i)
          INTO verdicts
          FROM unnest(paths, producers, epochs, known_epochs, verdicts) WITH ORDINALITY
               AS e(path, producer, epoch, known_epoch, verdict, i)
          LEFT JOIN run_gateway.streams s ON s.path = e.path;
    END IF;

    IF moved IS NOT NULL THEN
        PERFORM run_gateway.enter_epoch(moved, 0);
        places := ARRAY(SELECT (SELECT s.ctid FROM run_gateway.streams s WHERE s.id = e.id)
                          FROM unnest(ids) WITH ORDINALITY AS e(id, i) ORDER BY e.i);
    END IF;
    -- No join, for which a session that has planned on an empty table might read all of it (OFFSET: one look for `i`).
    UPDATE run_gateway.streams s
       SET (tail, packed, closed, closed_at, stream_seq, closing_producer, closing_epoch, closing_seq,
            expires_at, lease, lease_until) = (
            SELECT s.tail + counts[e.i],
                   s.packed AND counts[e.i] = 0,
                   s.closed OR closes[e.i],
                   CASE WHEN closes[e.i] THEN clock_timestamp() END,
                   coalesce(stream_seqs[e.i], s.stream_seq),
                   CASE WHEN closes[e.i] THEN producers[e.i] END,
                   CASE WHEN closes[e.i] THEN epochs[e.i] END,
                   CASE WHEN closes[e.i] THEN seqs[e.i] END,
                   run_gateway.slid(s.ttl, s.expires_at),
                   coalesce(leases[e.i], s.lease),
                   run_gateway.leased_until(coalesce(leases[e.i], s.lease))
              FROM (SELECT pg_catalog.array_position(ids, s.id) OFFSET 0) AS e(i))
     WHERE s.ctid = ANY (places);
    GET DIAGNOSTICS added = ROW_COUNT;
    IF added <> pg_catalog.cardinality(pg_catalog.array_remove(ids, 0::bigint)) THEN
        RAISE serialization_failure USING MESSAGE = 'A row has moved while its stream was locked.';
    END IF;

    INSERT INTO run_gateway.events (stream, seq, data)
    SELECT ids[e.entry], bases[e.entry] + e.ordinal, e.data
      FROM unnest(event_entries, event_ordinals, events) AS e(entry, ordinal, data)
     WHERE ids[e.entry] <> 0;

    IF producers IS NOT NULL THEN
        UPDATE run_gateway.producers AS p SET epoch = e.epoch, seq = e.seq
          FROM unnest(known, epochs, seqs) AS e(place, epoch, seq) WHERE p.ctid = e.place;
        GET DIAGNOSTICS added = ROW_COUNT;
        IF added <> pg_catalog.cardinality(pg_catalog.array_remove(known, NULL::tid)) THEN
            RAISE serialization_failure USING MESSAGE = 'A row has moved while its stream was locked.';
        END IF;
        INSERT INTO run_gateway.producers AS p (stream, producer, epoch, seq)
        SELECT e.id, e.producer, e.epoch, e.seq
          FROM unnest(ids, producers, epochs, seqs, known) AS e(id, producer, epoch, seq, place)
         WHERE e.id <> 0 AND e.seq >= 0 AND e.place IS NULL;
    END IF;
    IF leases IS NOT NULL THEN
        PERFORM run_gateway.watch_leases(ids, leases);
    END IF;
    IF true = ANY (closes) THEN
        PERFORM run_gateway.end_run(e.id) FROM unnest(ids, closes) AS e(id, closing) WHERE e.closing AND e.id <> 0;
    END IF;
    IF epochal OR moved IS NOT NULL THEN
        tails := run_gateway.marked_tails(paths, tails);
    END IF;
END
$$;


-- The same for a single request, in half the time: 60 µs for 119.
CREATE OR REPLACE FUNCTION run_gateway.append_one(
    path text, media_type text, closing boolean, stream_seq text, producer text, epoch bigint, seq bigint, events bytea[],
    lease integer,
    OUT outcome text, OUT tail bigint, OUT closed boolean, OUT known_epoch bigint, OUT known_seq bigint,
    OUT cancel_requested boolean
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s     record;
    n     integer := coalesce(pg_catalog.cardinality(events), 0);
    place tid;       -- of what is known of the producer
    moved boolean;   -- what was locked is not there any more: it cannot be
BEGIN
    SELECT v.id, v.media_type, v.tail, v.closed, v.gone, v.stream_seq, v.closing_producer, v.closing_epoch, v.closing_seq,
           v.lease, v.lost, v.cancel_requested, v.expires_at, v.served, v.breaks, v.ctid
      INTO s FROM run_gateway.streams v
     WHERE v.path >= append_one.path AND v.path <= append_one.path ORDER BY v.path DESC LIMIT 1 FOR NO KEY UPDATE;
    -- By the clock after the wait for the row. What run_gateway.live asks, without the price of a row as an argument.
    -- And not by AND, which asks both of NULL.
    IF (CASE WHEN s.expires_at <= clock_timestamp() THEN NOT run_gateway.kept_alive(s.id) END) THEN
        outcome := 'not_found';
        RETURN;
    END IF;
    IF append_one.producer IS NOT NULL THEN
        SELECT p.epoch, p.seq, p.ctid INTO known_epoch, known_seq, place FROM run_gateway.producers p
         WHERE p.stream = s.id AND p.producer >= append_one.producer AND p.producer <= append_one.producer
         ORDER BY p.producer DESC LIMIT 1;
    END IF;
    outcome := run_gateway.verdict(
        s.id, s.gone, s.closed, s.media_type, s.stream_seq, s.closing_producer, s.closing_epoch, s.closing_seq,
        known_epoch, known_seq,
        n, closing, append_one.media_type, append_one.stream_seq, producer, epoch, seq);
    tail := run_gateway.marked(s.tail, s.breaks);
    closed := s.closed;
    cancel_requested := s.cancel_requested;
    IF outcome <> 'appended' THEN
        IF s.lost THEN
            outcome := run_gateway.fence(true, producer, epoch, known_epoch, outcome);
        ELSIF s.closed THEN
            known_epoch := s.closing_epoch;
            known_seq := s.closing_seq;
        END IF;
        RETURN;
    END IF;

    IF n > 0 AND s.served IS DISTINCT FROM pg_postmaster_start_time() THEN
        PERFORM run_gateway.enter_epoch(ARRAY[s.id], 0);
        SELECT v.breaks, v.ctid INTO s.breaks, s.ctid FROM run_gateway.streams v WHERE v.id = s.id;
    END IF;
    tail := s.tail + n;
    closed := closing;
    known_epoch := epoch;
    known_seq := seq;
    IF n = 1 THEN
        INSERT INTO run_gateway.events AS v (stream, seq, data) VALUES (s.id, append_one.tail, events[1]);
    ELSE
        INSERT INTO run_gateway.events AS v (stream, seq, data)
        SELECT s.id, s.tail + e.i, e.data FROM pg_catalog.unnest(events) WITH ORDINALITY AS e(data, i);
    END IF;
    UPDATE run_gateway.streams AS v
       SET tail = append_one.tail,
           packed = v.packed AND n = 0,
           closed = closing,
           closed_at = CASE WHEN closing THEN clock_timestamp() END,
           stream_seq = coalesce(append_one.stream_seq, v.stream_seq),
           closing_producer = CASE WHEN closing THEN append_one.producer END,
           closing_epoch = CASE WHEN closing THEN append_one.epoch END,
           closing_seq = CASE WHEN closing THEN append_one.seq END,
           expires_at = run_gateway.slid(v.ttl, v.expires_at),
           lease = coalesce(append_one.lease, v.lease),
           lease_until = run_gateway.leased_until(coalesce(append_one.lease, v.lease))
     WHERE v.ctid = s.ctid;
    moved := NOT FOUND;
    IF seq >= 0 AND place IS NULL THEN
        INSERT INTO run_gateway.producers AS p (stream, producer, epoch, seq)
        VALUES (s.id, append_one.producer, append_one.epoch, append_one.seq);
    ELSIF seq >= 0 THEN
        UPDATE run_gateway.producers AS p SET epoch = append_one.epoch, seq = append_one.seq WHERE p.ctid = place;
        moved := moved OR NOT FOUND;
    END IF;
    IF moved THEN
        RAISE serialization_failure USING MESSAGE = 'A row has moved while its stream was locked.';
    END IF;
    IF lease IS NOT NULL THEN
        PERFORM run_gateway.watch_leases(ARRAY[s.id], ARRAY[lease]);
    END IF;
    IF closing THEN
        PERFORM run_gateway.end_run(s.id);
    END IF;
    IF s.breaks IS NOT NULL THEN
        tail := run_gateway.marked(tail, s.breaks);
    END IF;
END
$$;


-- What append_plain does, for a single request, which may name a Stream-Seq: a lone writer waits for this, 51 µs for the 60
-- of append_one. NULL: it is not accepted, or somebody else has changed the row at this moment, and nothing has changed;
-- append_one says which. A Machine without others calls this itself, since a procedure around it takes some 15 µs more.
CREATE OR REPLACE FUNCTION run_gateway.append_alone(
    path text, media_type text, events bytea[], stream_seq text, OUT tail bigint, OUT cancel_requested boolean
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    id     bigint;
    n      integer := pg_catalog.cardinality(events);
    place  bigint;
    moved  boolean;  -- another server wrote this stream last
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN;  -- it would not see what was committed while it waited for the row
    END IF;
    UPDATE run_gateway.streams AS v
       SET tail = v.tail + n, packed = v.packed AND n = 0, expires_at = run_gateway.slid(v.ttl, v.expires_at),
           lease_until = run_gateway.leased_until(v.lease),
           stream_seq = coalesce(append_alone.stream_seq, v.stream_seq)
     WHERE v.ctid = (SELECT u.ctid FROM run_gateway.streams u
                      WHERE u.path >= append_alone.path AND u.path <= append_alone.path ORDER BY u.path DESC LIMIT 1)
       AND v.path = append_alone.path AND run_gateway.live(v)
       AND run_gateway.verdict(
               v.id, v.gone, v.closed, v.media_type, v.stream_seq, NULL, NULL, NULL, NULL, NULL,
               n, false, append_alone.media_type, append_alone.stream_seq, NULL, NULL, NULL) = 'appended'
    RETURNING v.id, v.tail, v.cancel_requested, run_gateway.marked(v.tail, v.breaks),
              v.served IS DISTINCT FROM pg_postmaster_start_time()
         INTO id, tail, cancel_requested, place, moved;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF moved THEN
        PERFORM run_gateway.enter_epoch(ARRAY[id], n);
        place := run_gateway.marked(v.tail, v.breaks) FROM run_gateway.streams v WHERE v.path = append_alone.path;
    END IF;
    IF n = 1 THEN
        INSERT INTO run_gateway.events AS v (stream, seq, data) VALUES (id, append_alone.tail, events[1]);
    ELSE
        INSERT INTO run_gateway.events AS v (stream, seq, data)
        SELECT id, append_alone.tail - n + e.i, e.data FROM pg_catalog.unnest(events) WITH ORDINALITY AS e(data, i);
    END IF;
    tail := place;
END
$$;


-- Many events of one request, written as the pages that they would be packed into later: a third of what rows cost. A
-- stream's pages are its oldest events (pack.sql): when there are a few small rows before these, they go into the page as
-- well, and when there are more, these become rows like them. `entries` and `ordinals` say where a page begins: at which event of
-- which request of the batch that has just been judged; `counts` how many it holds, `lengths` the bytes of each, page after
-- page. None of them closes its stream, since end_run has looked for the last event by now. Whoever appends holds the
-- streams' rows, so nothing but packing can move events here at the same time.
CREATE OR REPLACE FUNCTION run_gateway.add_pages(
    paths text[], verdicts text[], tails bigint[], events integer[],
    entries integer[], ordinals integer[], counts integer[], bodies bytea[], lengths integer[]
) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    page   record;
    before record;
BEGIN
    FOR page IN
        SELECT s.id, run_gateway.separator(s.media_type) AS separator, p.ordinal, p.body,
               lengths[p.until - p.count + 1 : p.until] AS lengths,
               tails[p.entry] - events[p.entry] + p.ordinal + p.count - 1 AS last,
               b.rows,
               CASE WHEN b.rows > least(events[p.entry], 100) THEN true  -- those are too few for pack_page to begin with
                    WHEN b.rows > 0 THEN (  -- they may be megabytes each, and a page is read as a whole
                        SELECT sum(octet_length(v.data)) > 65536 FROM run_gateway.events v
                         WHERE v.stream = s.id AND v.seq > tails[p.entry] - events[p.entry] - b.rows)
                    ELSE false END AS as_rows
          FROM (SELECT u.*, sum(u.count) OVER (ORDER BY u.i)::integer AS until
                  FROM unnest(entries, ordinals, counts, bodies) WITH ORDINALITY AS u(entry, ordinal, count, body, i)) p
         CROSS JOIN LATERAL (SELECT * FROM run_gateway.streams v
                              WHERE v.path >= paths[p.entry] AND v.path <= paths[p.entry] ORDER BY v.path DESC LIMIT 1) s
         CROSS JOIN LATERAL (
            SELECT tails[p.entry] - events[p.entry] - run_gateway.packed_until(s.id, s.lineage_ends) OFFSET 0) b(rows)
         WHERE verdicts[p.entry] = 'appended'
         ORDER BY p.until
    LOOP
        IF page.as_rows THEN
            INSERT INTO run_gateway.events (stream, seq, data)
            SELECT page.id, page.last - cardinality(page.lengths) + e.i, substring(page.body FROM e.past - e.length FOR e.length)
              FROM (SELECT l.i, l.length,
                           sum(l.length + octet_length(page.separator)) OVER (ORDER BY l.i)::integer
                               - octet_length(page.separator) + 1 AS past
                      FROM unnest(page.lengths) WITH ORDINALITY AS l(length, i)) e;
            CONTINUE;
        END IF;
        IF page.rows > 0 AND page.ordinal = 1 THEN
            WITH moved AS (
                DELETE FROM run_gateway.events e
                 WHERE e.stream = page.id AND e.seq > page.last - cardinality(page.lengths) - page.rows
                RETURNING e.seq, e.data
            )
            SELECT count(*) AS n, string_agg(m.data, page.separator ORDER BY m.seq) AS body,
                   array_agg(octet_length(m.data) ORDER BY m.seq) AS lengths INTO before FROM moved m;
            IF before.n <> page.rows THEN
                RAISE serialization_failure USING MESSAGE = 'Rows were packed by somebody else at the same time.';
            END IF;
            page.body := before.body || page.separator || page.body;
            page.lengths := before.lengths || page.lengths;
        END IF;
        INSERT INTO run_gateway.pages (stream, first, last, body, lengths)
        VALUES (page.id, page.last - cardinality(page.lengths) + 1, page.last, page.body, page.lengths);
    END LOOP;
END
$$;


-- The hot append: one round trip, two transactions. Events are committed first and told of afterwards, because a
-- transaction that notifies holds a lock of the whole database while it is flushed, so such commits run one by one.
-- A crash between the two loses a hint and no data: readers elsewhere are late until the next sweep.
-- `machine` NULL: there is no other Machine to tell. A request without events that closes nothing is a sign of life, of
-- which nobody needs to hear. `news`: in which notification each stream's is, where all Machines read several in one: a
-- notification costs the server and each of them more than what it says.
CREATE OR REPLACE PROCEDURE run_gateway.append(
    IN machine text,
    IN paths text[], IN media_types text[], IN counts integer[], IN closes boolean[], IN stream_seqs text[],
    IN producers text[], IN epochs bigint[], IN seqs bigint[],
    IN event_entries integer[], IN event_ordinals integer[], IN events bytea[], IN bodies text[], IN leases integer[],
    IN page_entries integer[], IN page_ordinals integer[], IN page_counts integer[], IN page_bodies bytea[],
    IN page_lengths integer[], IN news integer[],
    OUT verdicts text[], OUT tails bigint[], OUT closed boolean[], OUT known_epochs bigint[], OUT known_seqs bigint[],
    OUT cancels boolean[]
)
LANGUAGE plpgsql AS $$
DECLARE
    channel text;
    seen    bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        COMMIT;  -- of nothing; what follows must see what was committed while it waited for a row
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    END IF;
    IF pg_catalog.cardinality(paths) = 1 AND page_entries IS NULL THEN
        SELECT ARRAY[o.outcome], ARRAY[o.tail], ARRAY[o.closed], ARRAY[o.known_epoch], ARRAY[o.known_seq],
               ARRAY[o.cancel_requested]
          INTO verdicts, tails, closed, known_epochs, known_seqs, cancels
          FROM run_gateway.append_one(
              paths[1], media_types[1], closes[1], stream_seqs[1], producers[1], epochs[1], seqs[1], events,
              leases[1]) o;
    ELSIF pg_catalog.num_nonnulls(stream_seqs, producers, leases) = 0 AND NOT true = ANY (closes)
          AND counts OPERATOR(pg_catalog.=) pg_catalog.array_fill(counts[1], ARRAY[pg_catalog.cardinality(counts)])
          AND media_types OPERATOR(pg_catalog.=) pg_catalog.array_fill(media_types[1], ARRAY[pg_catalog.cardinality(media_types)])
          AND (CASE WHEN current_setting('run_gateway.crowded_until', true) > ''
                    THEN extract(epoch FROM clock_timestamp()) > current_setting('run_gateway.crowded_until')::numeric
                    ELSE true END) THEN
        seen := pg_stat_get_xact_tuples_returned('run_gateway.streams_path_key'::regclass);
        SELECT * INTO verdicts, tails, closed, known_epochs, known_seqs, cancels
          FROM run_gateway.append_plain(
              paths, media_types[1], counts[1], event_entries, event_ordinals, events);
        IF pg_stat_get_xact_tuples_returned('run_gateway.streams_path_key'::regclass) - seen
           > 4 * pg_catalog.cardinality(paths) + 16 THEN
            PERFORM set_config('run_gateway.crowded_until', (extract(epoch FROM clock_timestamp()) + 1)::text, false);
        END IF;
    ELSE
        SELECT * INTO verdicts, tails, closed, known_epochs, known_seqs, cancels
          FROM run_gateway.append_batch(paths, media_types, counts, closes, stream_seqs, producers, epochs, seqs,
                                        event_entries, event_ordinals, events, leases);
    END IF;
    IF page_entries IS NOT NULL THEN
        PERFORM run_gateway.add_pages(
            paths, verdicts, ARRAY(SELECT run_gateway.number(t.tail) FROM pg_catalog.unnest(tails) WITH ORDINALITY AS t(tail, i) ORDER BY t.i),
            counts, page_entries, page_ordinals, page_counts, page_bodies, page_lengths);
    END IF;
    IF machine IS NOT NULL THEN
        COMMIT;
        -- From here on no lock_timeout, that a role or a database may have: an error would say that nothing was appended.
        PERFORM set_config('lock_timeout', '0', true);
        BEGIN
            -- As run_gateway.tell does it, with fewer calls.
            SELECT c.name INTO channel FROM run_gateway.channel c;
            IF news IS NULL THEN
                PERFORM pg_notify(channel, run_gateway.news(machine, n.path, n.tail - n.n + 1, n.tail, n.closed, n.body))
                   FROM unnest(paths, counts, bodies, verdicts, tails, closed) AS n(path, n, body, verdict, tail, closed)
                  WHERE n.verdict = 'appended' AND (n.n > 0 OR n.closed);
            ELSE
                PERFORM pg_notify(channel, machine || E'\n*\n' || t.said)
                   FROM (SELECT pg_catalog.string_agg(pg_catalog.char_length(o.said)::text || E'\n' || o.said, ''::text) AS said
                           FROM (SELECT n.place, run_gateway.one_of_news(n.path, n.tail - n.n + 1, n.tail, n.closed, n.body) AS said
                                   FROM unnest(paths, counts, bodies, verdicts, tails, closed, news)
                                        AS n(path, n, body, verdict, tail, closed, place)
                                  WHERE n.verdict = 'appended' AND (n.n > 0 OR n.closed) OFFSET 0) o
                          GROUP BY o.place) t;
            END IF;
            IF NOT starts_with(machine, '=') THEN
                PERFORM pg_notify(
                    'run_gateway', run_gateway.news(machine, n.path, n.tail - n.n + 1, n.tail, n.closed, NULL))
                   FROM unnest(paths, counts, verdicts, tails, closed) AS n(path, n, verdict, tail, closed)
                  WHERE n.verdict = 'appended' AND (n.n > 0 OR n.closed);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- what is committed is acknowledged, whether or not others could be told of it
        END;
    END IF;
END
$$;


-- The same for what append_alone takes. `tail` NULL: ask the one above. A lone writer waits for each query in here, so
-- what can be an assignment is none.
CREATE OR REPLACE PROCEDURE run_gateway.append(
    IN machine text, IN path text, IN media_type text, IN events bytea[], IN body text, IN stream_seq text,
    OUT tail bigint, OUT cancel_requested boolean
)
LANGUAGE plpgsql AS $$
DECLARE
    done    record;
    channel text;
    told    text;  -- nothing: what is assigned is not planned as a query
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        COMMIT;  -- as above
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    END IF;
    done := run_gateway.append_alone(path, media_type, events, stream_seq);
    tail := done.tail;
    cancel_requested := done.cancel_requested;
    IF machine IS NOT NULL AND tail IS NOT NULL THEN
        COMMIT;
        IF current_setting('lock_timeout') <> '0' THEN
            PERFORM set_config('lock_timeout', '0', true);
        END IF;
        BEGIN
            SELECT c.name INTO channel FROM run_gateway.channel c;  -- by itself, so that its plan is kept
            told := pg_notify(channel, run_gateway.news(
                machine, path, tail - pg_catalog.cardinality(events) + 1, tail, false, body))::text;
            IF NOT starts_with(machine, '=') THEN
                told := pg_notify('run_gateway', run_gateway.news(
                    machine, path, tail - pg_catalog.cardinality(events) + 1, tail, false, NULL))::text;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- as above
        END;
    END IF;
END
$$;
