-- How events are read.


-- Whether a stream can be addressed: neither removed nor expired.
CREATE OR REPLACE FUNCTION run_gateway.live(s run_gateway.streams) RETURNS boolean
LANGUAGE sql STABLE RETURN s.path IS NOT NULL AND (s.expires_at IS NULL OR s.expires_at > now());


-- What stands between two events in a body.
CREATE OR REPLACE FUNCTION run_gateway.separator(media_type text) RETURNS bytea
LANGUAGE sql IMMUTABLE RETURN CASE WHEN media_type = 'application/json' THEN ','::bytea ELSE ''::bytea END;


-- The packed events of one stream after a position and not after `upto`, out of the one page that holds the next;
-- nothing when that is not packed. The last one is the one that fills `room`.
CREATE OR REPLACE FUNCTION run_gateway.page_after(
    source bigint, after bigint, upto bigint, separator bytea, room bigint,
    OUT until bigint, OUT body bytea, OUT lengths integer[]
)
LANGUAGE plpgsql AS $$
DECLARE
    p    record;
    skip integer;
    gap  integer := octet_length(separator);
    head bigint;
    size bigint;
BEGIN
    SELECT v.first, v.last, v.body, v.lengths INTO p FROM run_gateway.pages v
     WHERE v.stream = source AND v.last > after ORDER BY v.last LIMIT 1;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    skip := after + 1 - p.first;
    IF skip = 0 AND p.last <= upto AND octet_length(p.body) - p.lengths[cardinality(p.lengths)] < room THEN
        until := p.last; body := p.body; lengths := p.lengths;
        RETURN;
    END IF;
    SELECT coalesce(sum(l + gap), 0) INTO head FROM unnest(p.lengths[1:skip]) l;
    SELECT after + count(*), sum(w.length + gap) - gap, array_agg(w.length) INTO until, size, lengths
      FROM (SELECT l.length, sum(l.length + gap) OVER (ORDER BY l.i) - l.length - gap AS before
              FROM unnest(p.lengths[skip + 1:upto - p.first + 1]) WITH ORDINALITY AS l(length, i)) w
     WHERE w.before < room;
    body := substring(p.body FROM head::integer + 1 FOR size::integer);
END
$$;


-- The same of events that are rows. Looks at no more than `most` of them; nothing when the next one is not there.
CREATE OR REPLACE FUNCTION run_gateway.rows_after(
    source bigint, after bigint, upto bigint, separator bytea, room bigint, most integer, with_lengths boolean,
    OUT until bigint, OUT body bytea, OUT lengths integer[]
)
LANGUAGE plpgsql AS $$
DECLARE
    gap   integer := octet_length(separator);
    found bigint;
BEGIN
    -- Rows come in order from the primary key: neither the running sum nor the aggregate sorts.
    SELECT count(*), max(w.seq), string_agg(w.data, separator),
           array_agg(octet_length(w.data)) FILTER (WHERE with_lengths) INTO found, until, body, lengths
      FROM (SELECT e.seq, e.data,
                   sum(octet_length(e.data) + gap) OVER (ORDER BY e.seq) - octet_length(e.data) - gap AS before
              FROM run_gateway.events e
             WHERE e.stream = source AND e.seq > after AND e.seq <= upto
             ORDER BY e.seq LIMIT most) w
     WHERE w.before < room;
    IF found <> until - after THEN
        until := NULL;
    END IF;
END
$$;


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
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s         record;
    separator bytea;
    part      record;
    parts     bytea[];
    size      bigint := 0;     -- of the parts, and of what stands between them
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
        SELECT * INTO part FROM run_gateway.page_after(source, until, upto, separator, page_bytes - size);
        IF part.until IS NULL THEN
            SELECT * INTO part
              FROM run_gateway.rows_after(source, until, upto, separator, page_bytes - size, most, recent IS NOT NULL);
        END IF;
        IF part.until IS NULL THEN
            IF missed THEN
                id := NULL;  -- removed at this very moment, and partly purged: half of it is nothing that anybody wrote
                RETURN;
            END IF;
            missed := true;  -- or packed between the two looks: then the next one finds its page
            CONTINUE;
        END IF;
        missed := false;
        parts := parts || part.body;
        size := size + octet_length(part.body) + octet_length(separator);
        most := least(greatest((page_bytes - size) * (part.until - until) / octet_length(part.body) + 1, 16), 100000);
        until := part.until;
        IF recent IS NOT NULL THEN
            lengths := lengths || part.lengths;
        END IF;
    END LOOP;
    IF cardinality(parts) = 1 THEN
        body := parts[1];
    ELSE
        SELECT string_agg(p, separator) INTO body FROM unnest(parts) p;
    END IF;

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
