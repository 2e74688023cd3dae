-- Streams come and go.


-- Takes a stream's path away (its events are purged later), or keeps it for its forks alone (§4.2). The last fork
-- of a soft-deleted source takes the source with it, up the chain.
CREATE OR REPLACE FUNCTION run_gateway.remove_stream(doomed bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.streams;
BEGIN
    SELECT * INTO s FROM run_gateway.streams WHERE id = doomed FOR UPDATE;
    PERFORM run_gateway.forget_run(s.id, s.path);
    IF s.forks > 0 THEN
        UPDATE run_gateway.streams SET gone = true, expires_at = NULL WHERE id = doomed;
        RETURN;
    END IF;
    UPDATE run_gateway.streams SET path = NULL, gone = true WHERE id = doomed;
    IF s.fork_source IS NOT NULL THEN
        UPDATE run_gateway.streams SET forks = forks - 1 WHERE id = s.fork_source RETURNING * INTO s;
        IF s.gone AND s.forks = 0 THEN
            PERFORM run_gateway.remove_stream(s.id);
        END IF;
    END IF;
END
$$;


CREATE OR REPLACE FUNCTION run_gateway.delete_stream(machine text, doomed text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.streams;
BEGIN
    -- A fork and those it comes from are locked in the order of all batches of appends: neither waits for the other.
    PERFORM 1 FROM run_gateway.streams v
      WHERE v.path IN (doomed, doomed || '/control') OR v.id IN (
        SELECT unnest(f.lineage || f.fork_source) FROM run_gateway.streams f WHERE f.path = doomed)
      ORDER BY v.path FOR UPDATE;
    SELECT * INTO s FROM run_gateway.streams WHERE path = doomed FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'not_found';
    ELSIF s.gone THEN
        RETURN 'gone';
    END IF;
    PERFORM run_gateway.remove_stream(s.id);
    IF NOT run_gateway.live(s) THEN
        RETURN 'not_found';
    END IF;
    PERFORM pg_notify('run_gateway', concat_ws(E'\n', machine, doomed, 0, 0, 'deleted'));
    RETURN 'deleted';
END
$$;


-- §5.1 and §4.2: creates a stream or a fork, or confirms that it exists as asked for.
CREATE OR REPLACE FUNCTION run_gateway.create_stream(
    wanted text, wanted_content_type text, wanted_media_type text, wanted_ttl bigint, wanted_expiry timestamptz,
    wanted_expires_header text, wanted_closed boolean, source_path text, anchor bigint, sub_offset bigint, events bytea[],
    OUT verdict text, OUT tail bigint, OUT closed boolean, OUT content_type text
)
LANGUAGE plpgsql AS $$
DECLARE
    s      run_gateway.streams;
    source run_gateway.streams;
    prefix bytea;
    at     bigint := 0;
BEGIN
    LOOP
        SELECT * INTO s FROM run_gateway.streams WHERE path = wanted FOR UPDATE;
        IF FOUND AND NOT s.gone AND NOT run_gateway.live(s) THEN
            PERFORM run_gateway.remove_stream(s.id);
            -- Whoever follows it finds out which of the two that is.
            PERFORM pg_notify('run_gateway', concat_ws(E'\n', '', wanted, 0, 0, 'open'));
            SELECT * INTO s FROM run_gateway.streams WHERE path = wanted;
        END IF;
        IF s.gone THEN
            verdict := 'gone';
            RETURN;
        ELSIF s.id IS NOT NULL THEN
            -- A fork's omitted type, expiry and offset are resolved when it is made: omitting them again agrees.
            verdict := CASE WHEN (s.media_type = wanted_media_type
                                  OR (source_path IS NOT NULL AND wanted_content_type IS NULL))
                             AND ((s.ttl, s.expires_header) IS NOT DISTINCT FROM (wanted_ttl, wanted_expires_header)
                                  OR (source_path IS NOT NULL AND wanted_ttl IS NULL AND wanted_expires_header IS NULL))
                             AND s.closed = wanted_closed
                             AND s.forked_from IS NOT DISTINCT FROM source_path
                             AND (anchor IS NULL OR s.fork_anchor = anchor)
                             AND s.fork_sub_offset = coalesce(sub_offset, 0)
                            THEN 'exists' ELSE 'conflict' END;
            tail := s.tail; closed := s.closed; content_type := s.content_type;
            RETURN;
        END IF;

        content_type := wanted_content_type;
        IF source_path IS NOT NULL THEN
            SELECT * INTO source FROM run_gateway.streams WHERE path = source_path FOR UPDATE;
            -- The type is judged before a reference is taken: a refused fork must not pin its source.
            verdict := CASE WHEN source.id IS NULL OR (NOT source.gone AND NOT run_gateway.live(source)) THEN 'source_not_found'
                            WHEN source.gone THEN 'source_gone'
                            WHEN wanted_content_type IS NOT NULL AND wanted_media_type <> source.media_type THEN 'content_type'
                            WHEN anchor > source.tail THEN 'fork_offset' END;
            IF verdict IS NOT NULL THEN
                RETURN;
            END IF;
            at := coalesce(anchor, source.tail);
            IF sub_offset > 0 AND source.media_type = 'application/json' THEN
                at := at + sub_offset;
                IF at > source.tail THEN
                    verdict := 'fork_sub_offset';
                    RETURN;
                END IF;
            ELSIF sub_offset > 0 THEN
                SELECT substring(e.body FROM 1 FOR least(sub_offset, 2147483647)::integer),
                       at + (octet_length(e.body) = sub_offset)::integer
                  INTO prefix, at FROM run_gateway.read_page(source_path, at, NULL, 1, false) e
                 WHERE octet_length(e.body) >= sub_offset;
                IF NOT FOUND THEN
                    verdict := 'fork_sub_offset';
                    RETURN;
                END IF;
                IF at > coalesce(anchor, source.tail) THEN
                    prefix := NULL;   -- the whole next append is inherited: no part of it needs a copy
                END IF;
            END IF;
            content_type := coalesce(wanted_content_type, source.content_type);
        END IF;

        INSERT INTO run_gateway.streams AS n (
            path, content_type, media_type, tail, closed, closed_at, ttl, expires_at, expires_header,
            forked_from, fork_anchor, fork_sub_offset, fork_source, lineage, lineage_ends)
        SELECT wanted, create_stream.content_type, coalesce(source.media_type, wanted_media_type),
               at + (prefix IS NOT NULL)::integer + coalesce(cardinality(events), 0), wanted_closed,
               CASE WHEN wanted_closed THEN clock_timestamp() END,
               x.ttl, CASE WHEN x.ttl IS NOT NULL THEN clock_timestamp() + x.ttl * interval '1 second' ELSE x.expiry END,
               x.header, source_path, CASE WHEN source_path IS NOT NULL THEN coalesce(anchor, source.tail) END,
               coalesce(sub_offset, 0), source.id, coalesce(l.lineage, '{}'), coalesce(l.ends, '{}')
          FROM (SELECT  -- §4.2's table: what the fork asks for, else what its source has
                    CASE WHEN wanted_ttl IS NULL AND wanted_expiry IS NULL THEN source.ttl ELSE wanted_ttl END AS ttl,
                    CASE WHEN wanted_ttl IS NULL AND wanted_expiry IS NULL AND source.ttl IS NULL
                         THEN source.expires_at ELSE wanted_expiry END AS expiry,
                    CASE WHEN wanted_ttl IS NULL AND wanted_expiry IS NULL AND source.ttl IS NULL
                         THEN source.expires_header ELSE wanted_expires_header END AS header) x
          CROSS JOIN (  -- the source's own segments, cut at the fork
              SELECT array_agg(u.id ORDER BY u.i) AS lineage, array_agg(least(u.until, at) ORDER BY u.i) AS ends
                FROM (SELECT v.id, v.until, v.i, coalesce(lag(v.until) OVER (ORDER BY v.i), 0) AS since
                        FROM unnest(source.lineage || source.id, source.lineage_ends || source.tail)
                             WITH ORDINALITY AS v(id, until, i)) u
               WHERE u.since < at) l
        ON CONFLICT (path) DO NOTHING
        RETURNING n.id, n.tail, n.closed INTO s.id, tail, closed;
        EXIT WHEN FOUND;   -- else somebody made it at this moment: judge again
    END LOOP;

    IF source.id IS NOT NULL THEN
        UPDATE run_gateway.streams SET forks = forks + 1 WHERE id = source.id;
    END IF;
    INSERT INTO run_gateway.events (stream, seq, data)
    SELECT s.id, at + e.i, e.data
      FROM unnest(CASE WHEN prefix IS NULL THEN events ELSE prefix || events END) WITH ORDINALITY AS e(data, i);
    IF wanted_closed THEN
        PERFORM run_gateway.end_run(s.id);
    END IF;
    verdict := 'created';
END
$$;


-- Takes away closed streams that have been kept for as long as they are to be. Forks keep what they inherit. Returns
-- how many: call again while it is not zero.
CREATE OR REPLACE FUNCTION run_gateway.retire(keep interval, most integer) RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
DECLARE
    doomed  bigint;
    removed bigint := 0;
BEGIN
    FOR doomed IN
        SELECT s.id FROM run_gateway.streams s
         WHERE s.closed_at < clock_timestamp() - keep AND s.path IS NOT NULL AND NOT s.gone
         ORDER BY s.closed_at LIMIT most FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM run_gateway.remove_stream(doomed);
        removed := removed + 1;
    END LOOP;
    RETURN removed;
END
$$;


-- Takes away streams that have expired, and some of the events of streams that were removed. Small steps, skipping what
-- others hold: any Machine may call it at any time. Returns how many rows went: call again while it is not zero.
CREATE OR REPLACE FUNCTION run_gateway.purge(most integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    doomed  bigint;
    removed bigint := 0;
    n       bigint;
BEGIN
    FOR doomed IN
        SELECT s.id FROM run_gateway.streams s
         WHERE s.expires_at < clock_timestamp() AND s.path IS NOT NULL AND NOT s.gone
         ORDER BY s.expires_at LIMIT 100 FOR UPDATE SKIP LOCKED
    LOOP
        PERFORM pg_notify('run_gateway', concat_ws(E'\n', '', s.path, 0, 0, 'deleted'))
           FROM run_gateway.streams s WHERE s.id = doomed;
        PERFORM run_gateway.remove_stream(doomed);
        removed := removed + 1;
    END LOOP;
    FOR doomed IN SELECT s.id FROM run_gateway.streams s WHERE s.path IS NULL ORDER BY s.id LIMIT 100 FOR UPDATE SKIP LOCKED
    LOOP
        n := run_gateway.purge_events(doomed, most);
        removed := removed + n;
        IF n < most THEN
            DELETE FROM run_gateway.producers p WHERE p.stream = doomed;
            DELETE FROM run_gateway.streams s WHERE s.id = doomed;
            removed := removed + 1;
        END IF;
        most := most - n;
        EXIT WHEN most <= 0;
    END LOOP;
    RETURN removed;
END
$$;


-- Some of a stream's events, the oldest first. A page counts as ten rows: it is some more in the TOAST table. Returns
-- fewer than `most` when nothing is left.
CREATE OR REPLACE FUNCTION run_gateway.purge_events(doomed bigint, most integer) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    pages bigint;
    n     bigint;
BEGIN
    DELETE FROM run_gateway.pages p WHERE p.stream = doomed AND p.last IN (
        SELECT v.last FROM run_gateway.pages v WHERE v.stream = doomed ORDER BY v.last LIMIT greatest(most / 10, 1));
    GET DIAGNOSTICS pages = ROW_COUNT;
    IF pages >= greatest(most / 10, 1) THEN
        RETURN most;
    END IF;
    DELETE FROM run_gateway.events e WHERE e.stream = doomed AND e.seq IN (
        SELECT v.seq FROM run_gateway.events v WHERE v.stream = doomed ORDER BY v.seq LIMIT most - pages * 10);
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN pages * 10 + n;
END
$$;
