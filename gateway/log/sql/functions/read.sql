-- How events are read.


-- Whether a stream can be addressed: neither removed nor expired.
CREATE OR REPLACE FUNCTION run_gateway.live(s run_gateway.streams) RETURNS boolean
LANGUAGE sql STABLE RETURN s.path IS NOT NULL AND (s.expires_at IS NULL OR s.expires_at > now());


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
    separator bytea := '';
    part      record;
    size      bigint := 0;
    most      integer := 256;  -- rows to look at: at first a guess, then what the page still has room for
    segment   integer := 1;    -- of the lineage; the one after the last is the stream's own
    source    bigint;
    upto      bigint;
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
    IF s.media_type = 'application/json' THEN
        separator := ',';
    END IF;
    same := known_id = s.id AND (known_until = tail OR (known_full AND known_until < tail));
    IF same THEN
        until := known_until;
    ELSIF recent > 0 AND until <= tail AND tail - until <= 256 THEN
        SELECT coalesce(min(w.seq) - 1, until) INTO start
          FROM (SELECT e.seq, sum(octet_length(e.data)) OVER (ORDER BY e.seq DESC) AS size
                  FROM run_gateway.events e
                 WHERE e.stream = s.id AND e.seq <= read_page.until AND e.seq > read_page.until - 128
                 ORDER BY e.seq DESC) w
         WHERE w.size <= least(recent, page_bytes / 2);
        until := start;
    END IF;

    WHILE NOT coalesce(same, false) AND until < tail AND size < page_bytes LOOP
        WHILE until >= s.lineage_ends[segment] LOOP
            segment := segment + 1;
        END LOOP;
        source := coalesce(s.lineage[segment], s.id);
        upto := coalesce(s.lineage_ends[segment], tail);
        -- Rows come in order from the primary key: neither the running sum nor the aggregate sorts.
        SELECT count(*) AS found, max(w.seq) AS until, string_agg(w.data, separator) AS body,
               array_agg(octet_length(w.data)) FILTER (WHERE recent IS NOT NULL) AS lengths INTO part
          FROM (SELECT e.seq, e.data, sum(octet_length(e.data)) OVER (ORDER BY e.seq) - octet_length(e.data) AS before
                  FROM run_gateway.events e
                 WHERE e.stream = source AND e.seq > read_page.until AND e.seq <= upto
                 ORDER BY e.seq LIMIT most) w
         WHERE w.before < page_bytes - size;
        IF part.found IS DISTINCT FROM part.until - until THEN
            id := NULL;  -- removed at this very moment, and partly purged: half of it is nothing that anybody wrote
            RETURN;
        END IF;
        until := part.until;
        lengths := lengths || part.lengths;
        body := CASE WHEN body IS NULL THEN part.body ELSE body || separator || part.body END;
        size := octet_length(body);
        most := least(greatest((page_bytes - size) / greatest(octet_length(part.body) / part.found, 1) + 1, 16), 100000);
    END LOOP;

    IF touch AND ttl IS NOT NULL THEN
        PERFORM run_gateway.touch(ARRAY[wanted]);
    END IF;
END
$$;


-- Slides the TTL of streams that are being read.
CREATE OR REPLACE FUNCTION run_gateway.touch(paths text[]) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    UPDATE run_gateway.streams s SET expires_at = clock_timestamp() + s.ttl * interval '1 second'
      FROM (SELECT v.id FROM run_gateway.streams v  -- in the order in which batches of appends lock theirs
             WHERE v.path = ANY (paths) AND v.ttl IS NOT NULL AND NOT v.gone AND run_gateway.live(v)
             ORDER BY v.path FOR NO KEY UPDATE) locked
     WHERE s.id = locked.id;
END;
