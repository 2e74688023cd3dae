-- How events are read.


-- The number of the advisory lock that a transaction of an application holds while it has written to a stream with an
-- end: far from the numbers that people choose.
CREATE OR REPLACE FUNCTION run_gateway.life_key(stream bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE RETURN -9000000000000000000 + stream;


-- Whether a stream's TTL ran out while no Machine looked, or seemed to as the clock was set forward: a reader of it could
-- not show that. Such a stream has half a minute more, or its TTL where that is less, from when a Machine looks again; a
-- Machine shows every few seconds who reads there. A look is as late as a second: see end_lost_runs. For three seconds after
-- a look nobody can tell that no other comes: who asks then is told that a stream has ended, so it does not come back later.
CREATE OR REPLACE FUNCTION run_gateway.unheard(ends timestamptz, ttl bigint, this timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE AS $$
DECLARE
    l record;
BEGIN
    SELECT k.at, k.since, k.left_at INTO l FROM run_gateway.lease_looks k WHERE k.one;
    RETURN CASE WHEN l.at < this - interval '3 seconds' THEN ends > l.at + interval '3 seconds'
                ELSE ends > l.left_at + interval '3 seconds' AND l.since > this - least(ttl, 30) * interval '1 second' END IS TRUE;
END
$$;


-- Whether a stream lives on though its row says that its end has come: a transaction that is still under way, of this
-- session or of another, has written to it; it was read while another session held its row; or no Machine was there to hear of it.
CREATE OR REPLACE FUNCTION run_gateway.kept_alive(wanted bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN  -- on a standby there is none, and the table is not there
        IF EXISTS (SELECT FROM run_gateway.under_way w
                    WHERE w.transaction = pg_current_xact_id_if_assigned() AND w.stream = wanted) THEN
            RETURN true;
        END IF;
    END IF;
    IF NOT pg_try_advisory_lock_shared(run_gateway.life_key(wanted)) THEN
        RETURN true;
    END IF;
    PERFORM pg_advisory_unlock_shared(run_gateway.life_key(wanted));
    -- The row once more: its writer may have committed since the caller looked.
    RETURN EXISTS (SELECT FROM run_gateway.streams s WHERE s.id = wanted AND s.expires_at > clock_timestamp())
        OR EXISTS (SELECT FROM run_gateway.expiries e WHERE e.stream = wanted AND e.kept_until > clock_timestamp())
        OR EXISTS (SELECT FROM run_gateway.streams s WHERE s.id = wanted AND s.ttl IS NOT NULL
                      AND run_gateway.unheard(s.expires_at, s.ttl, clock_timestamp()));
END
$$;


-- Whether a stream can be addressed: neither removed nor expired. By the clock, and not by now(): a transaction that began
-- before the end is told the same as everybody else.
CREATE OR REPLACE FUNCTION run_gateway.live(s run_gateway.streams) RETURNS boolean
LANGUAGE sql VOLATILE
RETURN s.path IS NOT NULL AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp() OR run_gateway.kept_alive(s.id));


-- The streams at these paths that can be addressed.
CREATE OR REPLACE FUNCTION run_gateway.streams_at(paths text[]) RETURNS SETOF run_gateway.streams
LANGUAGE plpgsql STABLE ROWS 10
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT s.* FROM unnest(paths) AS w(path) CROSS JOIN LATERAL (
        SELECT * FROM run_gateway.streams v
         WHERE v.path >= w.path AND v.path <= w.path AND run_gateway.live(v)
         ORDER BY v.path DESC LIMIT 1) s;   -- see append.sql
END
$$;


-- What stands between two events in a body.
CREATE OR REPLACE FUNCTION run_gateway.separator(media_type text) RETURNS bytea
LANGUAGE sql IMMUTABLE RETURN CASE WHEN media_type = 'application/json' THEN ','::bytea ELSE ''::bytea END;


-- How many of these events the room of a page holds: up to and with the one that fills it. NULL of NULL.
CREATE OR REPLACE FUNCTION run_gateway.fit(lengths integer[], gap integer, room bigint, OUT n bigint, OUT size bigint)
LANGUAGE sql IMMUTABLE STRICT
BEGIN ATOMIC
    SELECT count(*), sum(w.length + gap)
      FROM (SELECT l.length, sum(l.length + gap) OVER (ORDER BY l.i ROWS UNBOUNDED PRECEDING) - l.length - gap AS before
              FROM unnest(fit.lengths) WITH ORDINALITY AS l(length, i)) w
     WHERE w.before < room;
END;


-- The page after a position, and what its stream is, all in the snapshot of the statement that asks: what it says of
-- tail and "closed" belongs to these very events. `since`: the position, or with `last_events` as many events before the
-- tail. A page holds at least one event when there is one, stops after the event that fills `page_bytes`, and is of one epoch.
-- `start` NULL: `since` is no position of this stream (any more); `until` is the last one that both have, and NULL on a standby, which may
-- only be behind.
--
-- One row for each piece of it, in order, and one when there is nothing; `piece` gives the bytes: what is packed as it is
-- packed, rows a quarter of a megabyte at a time. For larger pieces a backend asks its system for memory anew each time,
-- which takes longer than all else. `after` and `until` are those of the piece; the last one's `until` is the page's.
--
-- `known_*`: the stream and the end of a page that the caller has read from this position, and whether that one was
-- full. While it is still the page, its events are not read again: `same` says so, the rest is as fresh as ever.
-- `recent`, for those who go on to follow: a page close to the tail begins as many bytes earlier, so that others who
-- stand a little behind find theirs in it; `lengths` tell where each event ends.
CREATE OR REPLACE FUNCTION run_gateway.find_page(
    wanted text, since bigint, last_events bigint, page_bytes bigint,
    known_id bigint, known_until bigint, known_full boolean, recent bigint,
    OUT id bigint, OUT content_type text, OUT tail bigint, OUT closed boolean, OUT gone boolean, OUT ttl bigint,
    OUT start bigint, OUT same boolean, OUT source bigint, OUT packed boolean, OUT after bigint, OUT until bigint,
    OUT separator bytea, OUT lengths integer[]
) RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 4
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s       record;
    part    record;
    gap     integer;
    room    bigint := page_bytes;
    most    bigint := 256;   -- rows to look at: at first a guess, then what a piece has room for
    segment integer := 0;    -- of the lineage; the one after the last is the stream's own
    upto    bigint := -1;    -- where it ends
    last    bigint;          -- where its epoch ends
    n       bigint;
BEGIN
    SELECT v.id, v.content_type, v.media_type, v.tail, v.closed, v.gone, v.ttl, v.lineage, v.lineage_ends, v.breaks
      INTO s FROM run_gateway.streams v
     WHERE v.path >= wanted AND v.path <= wanted AND run_gateway.live(v) ORDER BY v.path DESC LIMIT 1;  -- see append.sql
    IF NOT FOUND THEN
        RETURN;
    END IF;
    id := s.id; content_type := s.content_type; closed := s.closed; gone := s.gone; ttl := s.ttl;
    tail := s.tail;
    start := CASE WHEN last_events IS NULL THEN since ELSE greatest(s.tail - last_events, 0) END;
    IF s.breaks IS NOT NULL THEN
        tail := run_gateway.marked(s.tail, s.breaks);
        IF last_events IS NULL THEN
            start := run_gateway.known(since, s.tail, s.breaks);
        END IF;
    ELSIF start > tail THEN
        start := NULL;
    END IF;
    IF start IS NULL THEN
        IF NOT pg_is_in_recovery() THEN
            until := run_gateway.marked(run_gateway.shared(since, s.tail, s.breaks), s.breaks);
        END IF;
        RETURN NEXT;
        RETURN;
    END IF;
    separator := run_gateway.separator(s.media_type);
    gap := octet_length(separator);
    same := known_id = s.id AND (known_until = tail OR (
        known_full AND known_until < tail AND run_gateway.known(known_until, s.tail, s.breaks) IS NOT NULL));
    n := start;
    IF recent > 0 AND s.tail - start <= 256 THEN
        start := start - run_gateway.events_before(s.id, start, least(recent, page_bytes / 2));
    END IF;
    last := s.tail;
    IF s.breaks IS NOT NULL THEN
        SELECT greatest(start, max(b) FILTER (WHERE b <= n)), least(last, min(b) FILTER (WHERE b > n)) INTO start, last
          FROM (SELECT run_gateway.number(v) AS b FROM unnest(s.breaks) AS v) w;
    END IF;
    n := start;
    IF s.breaks IS NOT NULL THEN
        start := run_gateway.marked(n, s.breaks);
    END IF;
    IF same OR gone OR n >= last THEN
        after := start;
        until := CASE WHEN same THEN known_until ELSE start END;
        RETURN NEXT;
        RETURN;
    END IF;

    until := n;
    WHILE until < last AND room > 0 LOOP
        after := until;
        WHILE after >= upto LOOP
            segment := segment + 1;
            source := coalesce(s.lineage[segment], s.id);
            upto := least(coalesce(s.lineage_ends[segment], s.tail), last);
            packed := true;  -- its oldest events, if any are
        END LOOP;
        IF packed THEN
            SELECT coalesce(f.n, p.last - after) AS n, coalesce(f.size, p.size) AS size, CASE WHEN recent IS NOT NULL THEN
                       p.lengths[after - p.first + 2 : coalesce(after + f.n, p.last) - p.first + 1] END AS lengths INTO part
              FROM (SELECT v.first, v.last, v.lengths, octet_length(v.body) + gap AS size FROM run_gateway.pages v
                     WHERE v.stream = source AND v.last > find_page.after ORDER BY v.last LIMIT 1) p
             CROSS JOIN LATERAL run_gateway.fit(
                    CASE WHEN p.first <= after OR p.last > upto OR p.size - gap - p.lengths[cardinality(p.lengths)] >= room
                         THEN p.lengths[after - p.first + 2 : upto - p.first + 1] END, gap, room) f;
            packed := FOUND;
        END IF;
        IF NOT packed THEN
            SELECT count(*) AS n, sum(octet_length(e.data) + gap) AS size,
                   array_agg(octet_length(e.data)) FILTER (WHERE recent IS NOT NULL) AS lengths INTO part
              FROM (SELECT v.data FROM run_gateway.events v
                     WHERE v.stream = source AND v.seq > find_page.after AND v.seq <= least(find_page.after + most, upto)
                     ORDER BY v.seq) e;
            IF part.n < least(most, upto - after) THEN
                RAISE data_corrupted USING MESSAGE = format('Events of stream %s after its %s. are missing.', source, after);
            END IF;
            IF part.size > room THEN
                SELECT f.n, f.size, part.lengths[:f.n] AS lengths INTO part FROM run_gateway.fit(coalesce(part.lengths, (
                    SELECT array_agg(octet_length(e.data))
                      FROM (SELECT v.data FROM run_gateway.events v
                             WHERE v.stream = source AND v.seq > find_page.after AND v.seq <= find_page.after + part.n
                             ORDER BY v.seq) e)), gap, room) f;
            END IF;
            most := greatest(least(room - part.size, 262144) * part.n / greatest(part.size, 1), 16);
        END IF;
        until := after + part.n;
        room := room - part.size;
        lengths := CASE WHEN recent IS NOT NULL THEN part.lengths END;
        IF s.breaks IS NULL THEN
            RETURN NEXT;
        ELSE
            n := until;
            after := run_gateway.marked(after, s.breaks);
            until := run_gateway.marked(until, s.breaks);
            RETURN NEXT;
            until := n;
        END IF;
    END LOOP;
END
$$;


-- The events of a stream after one position up to another: rows, or those of one page.
CREATE OR REPLACE FUNCTION run_gateway.piece(source bigint, packed boolean, after bigint, until bigint, separator bytea)
RETURNS bytea
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    IF until > 1099511627775 THEN
        after := run_gateway.number(after);
        until := run_gateway.number(until);
    END IF;
    IF NOT packed THEN
        RETURN (SELECT string_agg(e.data, separator)
                  FROM (SELECT v.data FROM run_gateway.events v
                         WHERE v.stream = source AND v.seq > after AND v.seq <= until ORDER BY v.seq) e);
    END IF;
    RETURN (
        SELECT CASE WHEN p.first = after + 1 AND p.last = until THEN p.body ELSE (
                   SELECT substring(p.body FROM coalesce(sum(l.size) FILTER (WHERE p.first + l.i - 1 <= after), 0)::integer + 1
                                           FOR (sum(l.size) FILTER (WHERE p.first + l.i - 1 > after))::integer - octet_length(separator))
                     FROM (SELECT v.length + octet_length(separator) AS size, v.i
                             FROM unnest(p.lengths[:until - p.first + 1]) WITH ORDINALITY AS v(length, i)) l) END
          FROM run_gateway.pages p WHERE p.stream = source AND p.last >= until ORDER BY p.last LIMIT 1);
END
$$;


-- The last three bytes, or fewer, of so many of a stream's events: a reader of text who begins there is shown what they
-- begin (gateway/protocol/text.py).
CREATE OR REPLACE FUNCTION run_gateway.edge(wanted bigint, upto bigint) RETURNS bytea
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s      record;
    source bigint;
    event  bytea;
    bytes  bytea := '';
BEGIN
    SELECT v.tail, v.lineage, v.lineage_ends INTO s FROM run_gateway.streams v WHERE v.id = wanted;
    upto := least(upto, s.tail);
    WHILE upto > 0 AND octet_length(bytes) < 3 LOOP
        source := coalesce(
            (SELECT l.stream FROM unnest(s.lineage, s.lineage_ends) WITH ORDINALITY AS l(stream, until, i)
              WHERE l.until >= upto ORDER BY l.i LIMIT 1), wanted);
        SELECT e.data INTO event FROM run_gateway.events e WHERE e.stream = source AND e.seq = upto;
        IF NOT FOUND THEN
            event := run_gateway.piece(source, true, upto - 1, upto, '');
        END IF;
        bytes := substring(event FROM greatest(octet_length(event) - 2, 1)) || bytes;
        upto := upto - 1;
    END LOOP;
    RETURN substring(bytes FROM greatest(octet_length(bytes) - 2, 1));
END
$$;


-- The same as one row, the body in one piece: for what is small, and for Machines of the version before. It slides a TTL
-- (§5.1) when `touch` is set.
CREATE OR REPLACE FUNCTION run_gateway.read_page(
    wanted text, after bigint, last_events bigint, page_bytes bigint, touch boolean,
    known_id bigint DEFAULT NULL, known_until bigint DEFAULT NULL, known_full boolean DEFAULT NULL,
    recent bigint DEFAULT NULL,
    OUT id bigint, OUT content_type text, OUT tail bigint, OUT closed boolean, OUT gone boolean, OUT ttl bigint,
    OUT start bigint, OUT until bigint, OUT body bytea, OUT same boolean, OUT lengths integer[]
)
LANGUAGE plpgsql AS $$
DECLARE
    p record;
BEGIN
    FOR p IN
        SELECT f.*, CASE WHEN f.source IS NOT NULL
                         THEN run_gateway.piece(f.source, f.packed, f.after, f.until, f.separator) END AS body
          FROM run_gateway.find_page(wanted, after, last_events, page_bytes, known_id, known_until, known_full, recent) f
    LOOP
        id := p.id; content_type := p.content_type; tail := p.tail; closed := p.closed; gone := p.gone; ttl := p.ttl;
        start := p.start; until := p.until; same := p.same;
        lengths := lengths || p.lengths;
        body := CASE WHEN body IS NULL THEN p.body ELSE body || p.separator || p.body END;
    END LOOP;
    IF touch AND ttl IS NOT NULL THEN
        PERFORM run_gateway.touch(ARRAY[wanted]);
    END IF;
END
$$;


-- How many of a stream's own events up to a position, and of the last 128, are at most so many bytes.
CREATE OR REPLACE FUNCTION run_gateway.events_before(source bigint, upto bigint, most bigint) RETURNS bigint
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT count(*) FROM (
        SELECT sum(e.length) OVER (ORDER BY e.seq DESC) AS size
          FROM (SELECT v.seq, octet_length(v.data) AS length FROM run_gateway.events v
                 WHERE v.stream = source AND v.seq > upto - 128 AND v.seq <= upto
                UNION ALL
                SELECT p.first + l.i - 1, l.length
                  FROM run_gateway.pages p CROSS JOIN unnest(p.lengths) WITH ORDINALITY AS l(length, i)
                 WHERE p.stream = source AND p.last > upto - 128 AND p.first <= upto) e
         WHERE e.seq > upto - 128 AND e.seq <= upto) w
     WHERE w.size <= most;
END;


-- Slides the TTL of streams that are being read. No held row is waited for: its stream is kept beside it.
CREATE OR REPLACE FUNCTION run_gateway.touch(paths text[]) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    slid bigint[];
BEGIN
    WITH locked AS (  -- in the order in which batches of appends lock theirs
        SELECT s.place FROM (SELECT unnest(paths) COLLATE "C" AS path ORDER BY 1) w CROSS JOIN LATERAL (
            SELECT v.ctid AS place FROM run_gateway.streams v
             WHERE v.path >= w.path AND v.path <= w.path AND v.ttl IS NOT NULL AND NOT v.gone AND run_gateway.live(v)
             ORDER BY v.path DESC LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) s
    ), written AS (
        UPDATE run_gateway.streams s SET expires_at = run_gateway.slid(s.ttl, s.expires_at)
         WHERE s.ctid = ANY (ARRAY(SELECT l.place FROM locked l)) RETURNING s.id
    )
    SELECT array_agg(w.id) INTO slid FROM written w;
    IF cardinality(slid) = cardinality(paths) THEN
        RETURN;
    END IF;
    UPDATE run_gateway.expiries e SET kept_until = run_gateway.slid(s.ttl, NULL)
      FROM run_gateway.streams s
     WHERE e.stream = ANY (ARRAY(
            SELECT k.stream FROM run_gateway.expiries k JOIN run_gateway.streams v ON v.id = k.stream
             WHERE v.path = ANY (paths) AND v.ttl IS NOT NULL AND NOT v.gone AND v.id <> ALL (coalesce(slid, '{}'))
               AND run_gateway.live(v)
               FOR NO KEY UPDATE OF k SKIP LOCKED))
       AND s.id = e.stream;
END
$$;
