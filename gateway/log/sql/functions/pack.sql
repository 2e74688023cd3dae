-- How events are packed into pages. A stream's pages are its oldest events, its rows the rest: packing only ever moves
-- the seam between them, in one transaction for each page, so that a snapshot shows an event in one of the two.


-- Takes or renews the one right to keep house, until the transaction ends and for `hold` after that. Who has it not
-- is told at once, and leaves the work to the other. A right that lasts longer was given before the clock was set back.
CREATE OR REPLACE FUNCTION run_gateway.keeps_house(wanted text, hold interval) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM run_gateway.housekeeping h
      WHERE h.machine = wanted OR h.until NOT BETWEEN clock_timestamp() AND clock_timestamp() + 2 * hold FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE run_gateway.housekeeping SET machine = wanted, until = clock_timestamp() + hold;
    END IF;
    RETURN FOUND;
END
$$;


-- How many events are not a stream's own rows: those that it inherits, and those that are packed.
CREATE OR REPLACE FUNCTION run_gateway.packed_until(stream bigint, lineage_ends bigint[]) RETURNS bigint
LANGUAGE sql STABLE
RETURN coalesce((SELECT p.last FROM run_gateway.pages p WHERE p.stream = packed_until.stream ORDER BY p.last DESC LIMIT 1),
                lineage_ends[cardinality(lineage_ends)], 0);


-- Of the next `most` streams after one, those with something to pack: that have ended, or are open and have at least
-- `enough` events which are not packed. `until`: the last one looked at, NULL after the end.
CREATE OR REPLACE FUNCTION run_gateway.packable(after bigint, most integer, enough bigint, OUT ids bigint[], OUT until bigint)
LANGUAGE sql STABLE SET enable_seqscan = off
BEGIN ATOMIC
    SELECT array_agg(v.id) FILTER (
               WHERE v.closed OR v.gone
                  OR (v.tail >= enough AND v.tail - run_gateway.packed_until(v.id, v.lineage_ends) >= enough)),
           max(v.id)
      FROM (SELECT s.id, s.closed, s.gone, s.tail, s.lineage_ends FROM run_gateway.streams s
             WHERE NOT s.packed AND s.path IS NOT NULL AND s.id > after ORDER BY s.id LIMIT most) v;
END;


-- Notes that all of a stream is packed; another time, if somebody holds its row.
CREATE OR REPLACE FUNCTION run_gateway.mark_packed(wanted bigint) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    UPDATE run_gateway.streams s SET packed = true
     WHERE s.id = ANY (ARRAY(SELECT v.id FROM run_gateway.streams v WHERE v.id = wanted FOR NO KEY UPDATE SKIP LOCKED));
END;


-- Packs the next page of a stream: up to `page_bytes` or `page_events`, and of an open one nothing of the last
-- `margin` events, which are read most. Returns whether it did: call again while it is true. Whoever appends to the
-- stream meanwhile does not wait; a stream that is being deleted or forked at this moment is left for another time.
CREATE OR REPLACE FUNCTION run_gateway.pack_page(wanted bigint, page_bytes bigint, page_events integer, margin bigint)
RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s         record;
    since     bigint;
    upto      bigint;
    moved     bigint;
    separator bytea;
BEGIN
    -- What a crash takes back is as good as what it leaves: nobody has to wait for a disk.
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT v.tail, v.media_type, v.lineage_ends, v.closed OR v.gone AS ended INTO s FROM run_gateway.streams v
     WHERE v.id = wanted AND NOT v.packed AND v.path IS NOT NULL FOR KEY SHARE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    since := run_gateway.packed_until(wanted, s.lineage_ends);
    upto := CASE WHEN s.ended THEN s.tail ELSE s.tail - margin END;
    IF upto - since < page_events AND NOT s.ended OR upto = since THEN
        PERFORM run_gateway.mark_packed(wanted) WHERE s.ended;
        RETURN false;
    END IF;
    separator := run_gateway.separator(s.media_type);
    INSERT INTO run_gateway.pages (stream, first, last, body, lengths)
    SELECT wanted, since + 1, max(w.seq), string_agg(w.data, separator), array_agg(octet_length(w.data))
      FROM (SELECT e.seq, e.data, sum(octet_length(e.data) + octet_length(separator)) OVER (ORDER BY e.seq)
                                  - octet_length(e.data) - octet_length(separator) AS before
              FROM run_gateway.events e
             WHERE e.stream = wanted AND e.seq > since AND e.seq <= upto
             ORDER BY e.seq LIMIT page_events) w
     WHERE w.before < page_bytes
    RETURNING last INTO upto;
    DELETE FROM run_gateway.events e WHERE e.stream = wanted AND e.seq > since AND e.seq <= upto;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> upto - since THEN
        RAISE serialization_failure USING MESSAGE = 'Rows were packed by somebody else at the same time.';
    END IF;
    PERFORM run_gateway.mark_packed(wanted) WHERE s.ended AND s.tail = upto;
    RETURN true;
END
$$;
