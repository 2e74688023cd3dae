-- How events are read.


-- Whether a stream can be addressed: neither removed nor expired.
CREATE OR REPLACE FUNCTION run_gateway.live(s run_gateway.streams) RETURNS boolean
LANGUAGE sql STABLE RETURN s.path IS NOT NULL AND (s.expires_at IS NULL OR s.expires_at > now());


-- What stands between two events in a body.
CREATE OR REPLACE FUNCTION run_gateway.separator(media_type text) RETURNS bytea
LANGUAGE sql IMMUTABLE RETURN CASE WHEN media_type = 'application/json' THEN ','::bytea ELSE ''::bytea END;


-- The part of a page that begins after its first `skip` events and ends with the one that fills `room`. NULL of NULL.
CREATE OR REPLACE FUNCTION run_gateway.cut(
    body bytea, lengths integer[], skip bigint, gap integer, room bigint,
    OUT n bigint, OUT part bytea, OUT part_lengths integer[]
)
LANGUAGE sql IMMUTABLE STRICT
BEGIN ATOMIC
    SELECT count(*), substring(cut.body FROM min(w.at) + 1 FOR max(w.at + w.length) - min(w.at)), array_agg(w.length)
      FROM (SELECT l.i, l.length, (sum(l.length + gap) OVER e)::integer - l.length - gap AS at,
                   sum(l.length + gap) FILTER (WHERE l.i > skip) OVER e - l.length - gap AS before
              FROM unnest(cut.lengths) WITH ORDINALITY AS l(length, i) WINDOW e AS (ORDER BY l.i)) w
     WHERE w.i > skip AND w.before < room;
END;


-- The stream and the page after a position. The stream's row is read first: what it says of tail and "closed" is then
-- never newer than the events, for those up to that tail are there and do not change. `after`: the position, or with
-- `last_events` as many events before the tail. A page holds at least one event when there is one, and stops after the
-- event that fills `page_bytes`. The read slides a TTL (§5.1) when `touch` is set.
--
-- `known_*`: the stream and the end of a page that the caller has read from this position, and whether that one was
-- full. While it is still the page, its events are not read again: `same` says so, the rest is as fresh as ever.
-- `recent`, for those who go on to follow: a page close to the tail begins as many bytes earlier, so that others who
-- stand a little behind find theirs in it; `lengths` tell where each event ends.
CREATE OR REPLACE FUNCTION run_gateway.read_page(
    wanted text, after bigint, last_events bigint, page_bytes bigint, touch boolean,
    known_id bigint DEFAULT NULL, known_until bigint DEFAULT NULL, known_full boolean DEFAULT NULL,
    recent bigint DEFAULT NULL,
    OUT id bigint, OUT content_type text, OUT tail bigint, OUT closed boolean, OUT gone boolean, OUT ttl bigint,
    OUT start bigint, OUT until bigint, OUT body bytea, OUT same boolean, OUT lengths integer[]
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s         record;
    separator bytea;
    gap       integer;
    part      record;
    room      bigint;
    size      bigint := 0;     -- of the body, with a separator at its end
    most      integer := 256;  -- rows to look at: at first a guess, then what the page still has room for
    segment   integer := 1;    -- of the lineage; the one after the last is the stream's own
    source    bigint;
    upto      bigint;
    missed    boolean := false;
BEGIN
    SELECT v.id, v.content_type, v.media_type, v.tail, v.closed, v.gone, v.ttl, v.lineage, v.lineage_ends
      INTO s FROM run_gateway.streams v WHERE v.path = wanted AND run_gateway.live(v);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    id := s.id; content_type := s.content_type; tail := s.tail; closed := s.closed; gone := s.gone; ttl := s.ttl;
    start := CASE WHEN last_events IS NULL THEN after ELSE greatest(s.tail - last_events, 0) END;
    until := start;
    IF gone THEN
        RETURN;
    END IF;
    separator := run_gateway.separator(s.media_type);
    gap := octet_length(separator);
    same := known_id = s.id AND (known_until = tail OR (known_full AND known_until < tail));
    IF same THEN
        until := known_until;
    ELSIF recent > 0 AND until <= tail AND tail - until <= 256 THEN
        start := until - run_gateway.events_before(s.id, until, least(recent, page_bytes / 2));
        until := start;
    END IF;

    WHILE NOT coalesce(same, false) AND until < tail AND size < page_bytes LOOP
        WHILE until >= s.lineage_ends[segment] LOOP
            segment := segment + 1;
        END LOOP;
        source := coalesce(s.lineage[segment], s.id);
        upto := coalesce(s.lineage_ends[segment], tail);
        room := page_bytes - size;
        -- What is packed comes first: pages as they are, but for a part of the one in which this begins or ends.
        SELECT sum(coalesce(c.n, w.last - w.first + 1))::bigint AS found,
               max(coalesce(greatest(w.first - 1, read_page.until) + c.n, w.last)) AS until,
               string_agg(coalesce(c.part, w.body), separator) AS body,
               max(coalesce(c.part_lengths, w.lengths)) FILTER (WHERE recent IS NOT NULL) AS lengths INTO part
          FROM (SELECT v.*, sum(v.size - v.head) OVER (ORDER BY v.last) - (v.size - v.head) AS before
                  FROM (SELECT p.*, octet_length(p.body) + gap AS size, CASE WHEN p.first > read_page.until THEN 0 ELSE
                               (SELECT sum(l + gap)::integer FROM unnest(p.lengths[:read_page.until - p.first + 1]) l) END AS head
                          FROM run_gateway.pages p
                         WHERE p.stream = source AND p.last > read_page.until
                         ORDER BY p.last LIMIT CASE WHEN recent IS NULL THEN room / 32768 + 2 ELSE 1 END) v) w
         CROSS JOIN LATERAL run_gateway.cut(
                CASE WHEN w.head > 0 OR w.last > upto
                       OR w.before + w.size - gap - w.lengths[cardinality(w.lengths)] >= room THEN w.body END,
                w.lengths[:upto - w.first + 1], read_page.until - w.first + 1, gap, room - w.before) c
         WHERE w.before < room AND w.first <= upto;
        IF (part.found = part.until - until) IS NOT TRUE THEN
            -- Rows come in order from the primary key: neither the running sum nor the aggregate sorts.
            SELECT count(*) AS found, max(w.seq) AS until, string_agg(w.data, separator) AS body,
                   array_agg(octet_length(w.data)) FILTER (WHERE recent IS NOT NULL) AS lengths INTO part
              FROM (SELECT e.seq, e.data,
                           sum(octet_length(e.data) + gap) OVER (ORDER BY e.seq) - octet_length(e.data) - gap AS before
                      FROM run_gateway.events e
                     WHERE e.stream = source AND e.seq > read_page.until AND e.seq <= upto
                     ORDER BY e.seq LIMIT most) w
             WHERE w.before < room;
        END IF;
        IF (part.found = part.until - until) IS NOT TRUE THEN
            IF missed THEN
                id := NULL;  -- removed at this very moment, and partly purged: half of it is nothing that anybody wrote
                RETURN;
            END IF;
            missed := true;  -- or packed between the two looks: then the next one finds its page
            CONTINUE;
        END IF;
        missed := false;
        until := part.until;
        lengths := lengths || part.lengths;
        body := CASE WHEN body IS NULL THEN part.body ELSE body || separator || part.body END;
        size := octet_length(body) + gap;
        most := least(greatest((page_bytes - size) * part.found / octet_length(part.body) + 1, 16), 100000);
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


-- Slides the TTL of streams that are being read. Whoever holds one's row is writing to it, or will not have read it
-- expire: nobody waits for that.
CREATE OR REPLACE FUNCTION run_gateway.touch(paths text[]) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    UPDATE run_gateway.streams s SET expires_at = clock_timestamp() + s.ttl * interval '1 second'
      FROM (SELECT v.id FROM run_gateway.streams v  -- in the order in which batches of appends lock theirs
             WHERE v.path = ANY (paths) AND v.ttl IS NOT NULL AND NOT v.gone AND run_gateway.live(v)
             ORDER BY v.path FOR NO KEY UPDATE SKIP LOCKED) locked
     WHERE s.id = locked.id;
END;
