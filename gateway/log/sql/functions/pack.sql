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


-- How many transactions ago a silence of this length began: more than there are, as long as nobody has kept house for so
-- long. It is told from one of two marks, so it may be twice as long. Who keeps house asks, before each round.
CREATE OR REPLACE FUNCTION run_gateway.silence(lasting interval) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    this  timestamptz := clock_timestamp();
    quiet xid8;
BEGIN
    UPDATE run_gateway.housekeeping h
       SET quiet_before = h.quiet_next, quiet_next = pg_current_xact_id(), quiet_since = this
     WHERE h.quiet_since IS NULL OR this NOT BETWEEN h.quiet_since AND h.quiet_since + lasting;
    SELECT h.quiet_before INTO quiet FROM run_gateway.housekeeping h;
    RETURN coalesce(pg_snapshot_xmax(pg_current_snapshot())::text::bigint - quiet::text::bigint, 2147483648);
END
$$;


-- Whether a row was written before a silence began, so many transactions ago. One of two billion ago has come round to
-- look like one of the future.
CREATE OR REPLACE FUNCTION run_gateway.rests(written xid, silence bigint) RETURNS boolean
LANGUAGE sql STABLE RETURN age(written) NOT BETWEEN 0 AND silence;


-- Of the next `most` streams after one, those with something to pack. `ids`: open ones with at least `enough` events which
-- are not packed; `whole`: those that have ended, and those that are silent, whatever their length. A row that is read, or
-- promised a sign of life, is written as well: there the last event tells. `until`: the last one looked at, NULL after the end.
CREATE OR REPLACE FUNCTION run_gateway.packable_v2(
    after bigint, most integer, enough bigint, silence bigint, OUT ids bigint[], OUT whole bigint[], OUT until bigint
)
LANGUAGE sql STABLE SET enable_seqscan = off
BEGIN ATOMIC
    SELECT array_agg(w.id) FILTER (
               WHERE NOT w.rests AND w.tail >= enough AND w.tail - run_gateway.packed_until(w.id, w.lineage_ends) >= enough),
           array_agg(w.id) FILTER (WHERE w.rests), max(w.id)
      FROM (SELECT v.id, v.tail, v.lineage_ends,
                   CASE WHEN v.closed OR v.gone THEN true
                        WHEN silence IS NULL THEN false
                        WHEN run_gateway.rests(v.xmin, silence) THEN true
                        WHEN num_nonnulls(v.ttl, v.lease) > 0 THEN coalesce((
                            SELECT run_gateway.rests(e.xmin, silence) FROM run_gateway.events e
                             WHERE e.stream = v.id AND e.seq = v.tail), false)
                        ELSE false END AS rests
              FROM (SELECT s.id, s.closed, s.gone, s.tail, s.lineage_ends, s.xmin, s.ttl, s.lease FROM run_gateway.streams s
                     WHERE NOT s.packed AND s.path IS NOT NULL AND s.id > after ORDER BY s.id LIMIT most) v OFFSET 0) w;
END;


-- Notes that all of a stream is packed; another time, if another session holds its row.
CREATE OR REPLACE FUNCTION run_gateway.mark_packed(wanted bigint) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    UPDATE run_gateway.streams s SET packed = true
     WHERE s.id = ANY (ARRAY(SELECT v.id FROM run_gateway.streams v WHERE v.id = wanted FOR NO KEY UPDATE SKIP LOCKED));
END;


-- Packs the next page of a stream: up to `page_bytes` or `page_events`, and of an open one nothing of the last
-- `margin` events, which are read most. Returns whether it did: call again while it is true. A session that appends to the
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
        RAISE serialization_failure USING MESSAGE = 'Another session packed the rows at the same time.';
    END IF;
    PERFORM run_gateway.mark_packed(wanted) WHERE s.ended AND s.tail = upto;
    RETURN true;
END
$$;


-- Packs all that is left of streams which have ended or are silent, in the order given, and for some hundredths of a second:
-- who appends to one of these again at this very moment waits for as long. `seen`: how many are done with. One that a session
-- holds is left for another time, and so is one that cannot be packed: it keeps no other from its turn. Each is a
-- subtransaction: see try_away for how many there may be.
CREATE OR REPLACE FUNCTION run_gateway.pack_whole(
    wanted bigint[], page_bytes bigint, page_events integer, OUT seen integer, OUT pages integer, OUT failed integer
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    until timestamptz := clock_timestamp() + interval '0.02 seconds';
    each  bigint;
    more  boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);  -- as above
    seen := 0; pages := 0; failed := 0;
    FOREACH each IN ARRAY wanted LOOP
        BEGIN
            LOOP
                more := run_gateway.pack_rest(each, page_bytes, page_events);
                pages := pages + (more IS NOT NULL)::integer;
                EXIT WHEN more IS NOT TRUE;
                IF clock_timestamp() > until THEN
                    RETURN;  -- to go on with it another time
                END IF;
            END LOOP;
        EXCEPTION WHEN OTHERS THEN
            RAISE WARNING 'run_gateway: stream % cannot be packed: % (%)', each, SQLERRM, SQLSTATE;
            failed := failed + 1;
        END;
        seen := seen + 1;
        EXIT WHEN clock_timestamp() > until;
    END LOOP;
END
$$;


-- Packs the next page of all that a stream has, and marks the stream when that was the last one. It holds the row of an open
-- one, as an append does, so that the mark is true. A few events take the page before them with them, unless that is four
-- times as much: a stream that says a little after each silence is a few pages, and none of its events is written again and
-- again. Whether there is more; NULL when there was nothing to pack, or another session holds the row.
CREATE OR REPLACE FUNCTION run_gateway.pack_rest(wanted bigint, page_bytes bigint, page_events integer) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s         record;
    rest      record;
    before    record;
    since     bigint;  -- before the first event of the new page
    upto      bigint;
    n         bigint;
    separator bytea;
BEGIN
    SELECT v.tail, v.media_type, v.lineage_ends INTO s FROM run_gateway.streams v
     WHERE v.id = wanted AND NOT v.packed AND v.path IS NOT NULL FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN  -- no session appends to one that has ended, whichever holds it
        SELECT v.tail, v.media_type, v.lineage_ends INTO s FROM run_gateway.streams v
         WHERE v.id = wanted AND NOT v.packed AND v.path IS NOT NULL AND (v.closed OR v.gone) FOR KEY SHARE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    since := run_gateway.packed_until(wanted, s.lineage_ends);
    IF since = s.tail THEN
        PERFORM run_gateway.mark_packed(wanted);
        RETURN NULL;
    END IF;
    separator := run_gateway.separator(s.media_type);
    SELECT count(*) AS n, max(w.seq) AS upto, sum(w.size) AS size, string_agg(w.data, separator ORDER BY w.seq) AS body,
           array_agg(octet_length(w.data) ORDER BY w.seq) AS lengths INTO rest
      FROM (SELECT e.seq, e.data, octet_length(e.data) + octet_length(separator) AS size,
                   sum(octet_length(e.data) + octet_length(separator)) OVER (ORDER BY e.seq) AS until
              FROM run_gateway.events e WHERE e.stream = wanted AND e.seq > since ORDER BY e.seq LIMIT page_events) w
     WHERE w.until - w.size < page_bytes;
    upto := rest.upto;
    DELETE FROM run_gateway.events e WHERE e.stream = wanted AND e.seq > since AND e.seq <= upto;
    GET DIAGNOSTICS n = ROW_COUNT;
    IF n <> rest.n OR n <> upto - since THEN
        RAISE serialization_failure USING MESSAGE = 'Another session packed the rows at the same time.';
    END IF;
    WHILE upto = s.tail LOOP
        SELECT p.first, p.last, cardinality(p.lengths) AS n, octet_length(p.body) + octet_length(separator) AS size INTO before
          FROM run_gateway.pages p WHERE p.stream = wanted AND p.last = since;
        EXIT WHEN NOT FOUND OR before.n > 4 * n OR before.n + n > page_events OR before.size + rest.size > page_bytes;
        DELETE FROM run_gateway.pages p WHERE p.stream = wanted AND p.last = since
        RETURNING p.body || separator || rest.body, p.lengths || rest.lengths INTO rest.body, rest.lengths;
        since := before.first - 1;
        rest.size := rest.size + before.size;
        n := n + before.n;
    END LOOP;
    INSERT INTO run_gateway.pages (stream, first, last, body, lengths) VALUES (wanted, since + 1, upto, rest.body, rest.lengths);
    PERFORM run_gateway.mark_packed(wanted) WHERE upto = s.tail;
    RETURN upto < s.tail;
END
$$;
