-- The event log: streams, their events, their producers. Time that decides is the database's.

CREATE TABLE run_gateway.streams (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path             text COLLATE "C" UNIQUE,          -- NULL: removed; its events wait to be purged
    content_type     text    NOT NULL,                 -- as the creator wrote it, echoed exactly
    media_type       text    NOT NULL,                 -- lower case, without parameters: what is compared
    tail             bigint  NOT NULL DEFAULT 0,       -- the last event's number = how many there are
    closed           boolean NOT NULL DEFAULT false,
    gone             boolean NOT NULL DEFAULT false,   -- soft-deleted (§4.2): kept for its forks alone
    forks            integer NOT NULL DEFAULT 0,       -- how many streams inherit from this one
    ttl              bigint,                           -- seconds; expires_at slides with each read and write
    expires_at       timestamptz,
    expires_header   text,                             -- Stream-Expires-At as given, echoed exactly
    stream_seq       text COLLATE "C",                 -- the last Stream-Seq, compared bytewise
    closing_producer text,                             -- the request that closed it: its retry is a success
    closing_epoch    bigint,
    closing_seq      bigint,
    forked_from      text,                             -- what the creator of a fork asked for
    fork_anchor      bigint,
    fork_sub_offset  bigint  NOT NULL DEFAULT 0,
    fork_source      bigint,                           -- the stream whose `forks` counts this one
    lineage          bigint[] NOT NULL DEFAULT '{}',   -- inherited events: those up to lineage_ends[i] that no
    lineage_ends     bigint[] NOT NULL DEFAULT '{}',   -- earlier entry covers are rows of stream lineage[i]
    created_at       timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);                              -- every append updates its row: leave room for HOT

CREATE INDEX streams_expiring ON run_gateway.streams (expires_at) WHERE expires_at IS NOT NULL AND path IS NOT NULL;
CREATE INDEX streams_removed ON run_gateway.streams (id) WHERE path IS NULL;

CREATE TABLE run_gateway.events (
    stream bigint NOT NULL,      -- no foreign key: its check would cost every insert; removal is ours alone
    seq    bigint NOT NULL,      -- 1, 2, 3, … in the order of commit, given under the stream's row lock
    data   bytea  NOT NULL,      -- one JSON message, or the bytes of one append
    PRIMARY KEY (stream, seq)
);

CREATE TABLE run_gateway.producers (
    stream   bigint NOT NULL,
    producer text COLLATE "C" NOT NULL,
    epoch    bigint NOT NULL,
    seq      bigint NOT NULL,
    PRIMARY KEY (stream, producer)
) WITH (fillfactor = 50);


-- Whether a stream can be addressed: neither removed nor expired.
CREATE FUNCTION run_gateway.live(s run_gateway.streams) RETURNS boolean
LANGUAGE sql STABLE RETURN s.path IS NOT NULL AND (s.expires_at IS NULL OR s.expires_at > now());


-- What becomes of one request (§5.2, §5.2.1): 'appended', 'duplicate' (a success that changes nothing), or a refusal.
-- First what the stream is (id NULL: it is not there), then what is known of the producer, then what is asked for.
CREATE FUNCTION run_gateway.verdict(
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
    WHEN epoch > known_epoch AND seq > 0 THEN 'epoch_start'
    WHEN epoch = known_epoch AND seq <= known_seq THEN 'duplicate'
    WHEN epoch = known_epoch AND seq > known_seq + 1 THEN 'sequence_gap'
    WHEN wanted_seq COLLATE "C" <= stream_seq THEN 'stream_seq'
    ELSE 'appended'
END;


-- Judges one request per stream and appends what is accepted. Each path stands at most once in `paths`, in ascending
-- order (the writer sees to it): every judgement is independent of its neighbours, and no two batches can wait for
-- each other. `tails` and `closed` are the streams' state afterwards, `known_*` the producers'.
--
-- The plans must use the indexes whatever the statistics say (a session may have planned on empty tables): hence SET.
CREATE FUNCTION run_gateway.append_batch(
    paths text[], media_types text[], counts integer[], closes boolean[], stream_seqs text[],
    producers text[], epochs bigint[], seqs bigint[],
    event_entries integer[], event_ordinals integer[], events bytea[],
    OUT verdicts text[], OUT tails bigint[], OUT closed boolean[], OUT known_epochs bigint[], OUT known_seqs bigint[]
)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ids   bigint[];   -- 0 where the request is not accepted
    bases bigint[];   -- the tail before this append
BEGIN
    -- Locked first, and judged by the next statement, which sees what was committed until the locks were had. What
    -- this one does not find was not there: judging it without a lock would be wrong, should it appear just now.
    SELECT array_agg(s.id) INTO ids
      FROM unnest(paths) WITH ORDINALITY AS e(path, i)
      LEFT JOIN LATERAL (
        SELECT v.id FROM run_gateway.streams v WHERE v.path = e.path AND run_gateway.live(v) FOR NO KEY UPDATE) s ON true;

    SELECT array_agg(CASE WHEN j.verdict = 'appended' THEN j.id ELSE 0 END), array_agg(j.tail), array_agg(j.verdict),
           array_agg(CASE WHEN j.verdict = 'appended' THEN j.tail + j.n ELSE j.tail END),
           array_agg(j.was_closed OR (j.verdict = 'appended' AND j.closing)),
           array_agg(CASE WHEN j.verdict = 'appended' THEN j.epoch ELSE j.known_epoch END),
           array_agg(CASE WHEN j.verdict = 'appended' THEN j.seq ELSE j.known_seq END)
      INTO ids, bases, verdicts, tails, closed, known_epochs, known_seqs
      FROM (
        SELECT e.n, e.closing, e.epoch, e.seq, s.id, s.tail, s.closed AS was_closed,
               CASE WHEN s.closed THEN s.closing_epoch ELSE p.epoch END AS known_epoch,
               CASE WHEN s.closed THEN s.closing_seq ELSE p.seq END AS known_seq,
               run_gateway.verdict(
                   s.id, s.gone, s.closed, s.media_type, s.stream_seq, s.closing_producer, s.closing_epoch,
                   s.closing_seq, p.epoch, p.seq,
                   e.n, e.closing, e.media_type, e.stream_seq, e.producer, e.epoch, e.seq) AS verdict
          FROM unnest(ids, media_types, counts, closes, stream_seqs, producers, epochs, seqs) WITH ORDINALITY
               AS e(id, media_type, n, closing, stream_seq, producer, epoch, seq, i)
          LEFT JOIN LATERAL (SELECT * FROM run_gateway.streams s WHERE s.id = e.id LIMIT 1) s ON true
          LEFT JOIN LATERAL (
            SELECT p.epoch, p.seq FROM run_gateway.producers p
             WHERE p.stream = s.id AND p.producer = e.producer LIMIT 1) p ON true
         ORDER BY e.i
      ) j;

    UPDATE run_gateway.streams s
       SET tail = s.tail + e.n,
           closed = s.closed OR e.closing,
           stream_seq = coalesce(e.stream_seq, s.stream_seq),
           closing_producer = CASE WHEN e.closing THEN e.producer END,
           closing_epoch = CASE WHEN e.closing THEN e.epoch END,
           closing_seq = CASE WHEN e.closing THEN e.seq END,
           expires_at = CASE WHEN s.ttl IS NULL THEN s.expires_at
                             ELSE clock_timestamp() + s.ttl * interval '1 second' END
      FROM unnest(ids, counts, closes, stream_seqs, producers, epochs, seqs)
           AS e(id, n, closing, stream_seq, producer, epoch, seq)
     WHERE s.id = e.id;

    INSERT INTO run_gateway.events (stream, seq, data)
    SELECT ids[e.entry], bases[e.entry] + e.ordinal, e.data
      FROM unnest(event_entries, event_ordinals, events) AS e(entry, ordinal, data)
     WHERE ids[e.entry] <> 0;

    IF producers IS NOT NULL THEN
        INSERT INTO run_gateway.producers AS p (stream, producer, epoch, seq)
        SELECT e.id, e.producer, e.epoch, e.seq FROM unnest(ids, producers, epochs, seqs) AS e(id, producer, epoch, seq)
         WHERE e.id <> 0 AND e.producer IS NOT NULL
        ON CONFLICT (stream, producer) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq;
    END IF;
END
$$;


-- The same for a single request, in half the time: a lone writer waits for this. `verdict` is what they share.
CREATE FUNCTION run_gateway.append_one(
    path text, media_type text, closing boolean, stream_seq text, producer text, epoch bigint, seq bigint, events bytea[],
    OUT outcome text, OUT tail bigint, OUT closed boolean, OUT known_epoch bigint, OUT known_seq bigint
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s record;
    n integer := coalesce(cardinality(events), 0);
BEGIN
    SELECT v.id, v.media_type, v.tail, v.closed, v.gone, v.stream_seq, v.closing_producer, v.closing_epoch, v.closing_seq
      INTO s FROM run_gateway.streams v
     WHERE v.path = append_one.path AND run_gateway.live(v) FOR NO KEY UPDATE;
    IF append_one.producer IS NOT NULL THEN
        SELECT p.epoch, p.seq INTO known_epoch, known_seq FROM run_gateway.producers p
         WHERE p.stream = s.id AND p.producer = append_one.producer;
    END IF;
    outcome := run_gateway.verdict(
        s.id, s.gone, s.closed, s.media_type, s.stream_seq, s.closing_producer, s.closing_epoch, s.closing_seq,
        known_epoch, known_seq,
        n, closing, append_one.media_type, append_one.stream_seq, producer, epoch, seq);
    tail := s.tail;
    closed := s.closed;
    IF outcome <> 'appended' THEN
        IF s.closed THEN
            known_epoch := s.closing_epoch;
            known_seq := s.closing_seq;
        END IF;
        RETURN;
    END IF;

    tail := s.tail + n;
    closed := closing;
    known_epoch := epoch;
    known_seq := seq;
    IF n = 1 THEN
        INSERT INTO run_gateway.events AS v (stream, seq, data) VALUES (s.id, append_one.tail, events[1]);
    ELSE
        INSERT INTO run_gateway.events AS v (stream, seq, data)
        SELECT s.id, s.tail + e.i, e.data FROM unnest(events) WITH ORDINALITY AS e(data, i);
    END IF;
    UPDATE run_gateway.streams AS v
       SET tail = append_one.tail,
           closed = closing,
           stream_seq = coalesce(append_one.stream_seq, v.stream_seq),
           closing_producer = CASE WHEN closing THEN append_one.producer END,
           closing_epoch = CASE WHEN closing THEN append_one.epoch END,
           closing_seq = CASE WHEN closing THEN append_one.seq END,
           expires_at = CASE WHEN v.ttl IS NULL THEN v.expires_at
                             ELSE clock_timestamp() + v.ttl * interval '1 second' END
     WHERE v.id = s.id;
    IF producer IS NOT NULL THEN
        INSERT INTO run_gateway.producers AS p (stream, producer, epoch, seq)
        VALUES (s.id, append_one.producer, append_one.epoch, append_one.seq)
        ON CONFLICT ON CONSTRAINT producers_pkey DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq;
    END IF;
END
$$;


-- What other Machines hear: machine, path, first and last new event, whether it is closed, and the new events
-- themselves where they fit. NOTIFY takes at most 7,999 bytes; one more would fail the transaction.
CREATE FUNCTION run_gateway.news(machine text, path text, first bigint, last bigint, closed boolean, body text)
RETURNS text LANGUAGE sql IMMUTABLE
RETURN concat_ws(E'\n', machine, path, first, last, CASE WHEN closed THEN 'closed' ELSE 'open' END,
                 CASE WHEN octet_length(machine) + octet_length(path) + octet_length(body) <= 7900 THEN body END);


-- The hot append: one round trip, two transactions. Events are committed first and told of afterwards, because a
-- transaction that notifies holds a lock of the whole database while it is flushed, so such commits run one by one.
-- A crash between the two loses a hint and no data: readers elsewhere are late until the next sweep.
-- `machine` NULL: there is no other Machine to tell.
CREATE PROCEDURE run_gateway.append(
    IN machine text,
    IN paths text[], IN media_types text[], IN counts integer[], IN closes boolean[], IN stream_seqs text[],
    IN producers text[], IN epochs bigint[], IN seqs bigint[],
    IN event_entries integer[], IN event_ordinals integer[], IN events bytea[], IN bodies text[],
    OUT verdicts text[], OUT tails bigint[], OUT closed boolean[], OUT known_epochs bigint[], OUT known_seqs bigint[]
)
LANGUAGE plpgsql AS $$
BEGIN
    IF cardinality(paths) = 1 THEN
        SELECT ARRAY[o.outcome], ARRAY[o.tail], ARRAY[o.closed], ARRAY[o.known_epoch], ARRAY[o.known_seq]
          INTO verdicts, tails, closed, known_epochs, known_seqs
          FROM run_gateway.append_one(
              paths[1], media_types[1], closes[1], stream_seqs[1], producers[1], epochs[1], seqs[1], events) o;
    ELSE
        SELECT * INTO verdicts, tails, closed, known_epochs, known_seqs
          FROM run_gateway.append_batch(paths, media_types, counts, closes, stream_seqs, producers, epochs, seqs,
                                        event_entries, event_ordinals, events);
    END IF;
    IF machine IS NOT NULL THEN
        COMMIT;
        BEGIN
            PERFORM pg_notify(
                'run_gateway', run_gateway.news(machine, n.path, n.tail - n.n + 1, n.tail, n.closed, n.body))
               FROM unnest(paths, counts, bodies, verdicts, tails, closed) AS n(path, n, body, verdict, tail, closed)
              WHERE n.verdict = 'appended';
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- what is committed is acknowledged, whether or not others could be told of it
        END;
    END IF;
END
$$;


-- Appends one event inside the caller's own transaction: it commits, or not, with the caller's other changes.
-- Raises no_data_found when the stream does not exist, object_not_in_prerequisite_state when it takes no such event.
CREATE FUNCTION run_gateway.append_event(path text, event jsonb) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    result record;
BEGIN
    SELECT * INTO result FROM run_gateway.append_one(
        path, 'application/json', false, NULL, NULL, NULL, NULL, ARRAY[convert_to(event::text, 'UTF8')]);
    IF result.outcome IN ('not_found', 'gone') THEN
        RAISE no_data_found USING MESSAGE = format('There is no stream at %s.', path);
    ELSIF result.outcome <> 'appended' THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = format('Stream %s refuses it: %s', path, result.outcome);
    END IF;
    PERFORM pg_notify('run_gateway', run_gateway.news('', path, result.tail, result.tail, false, event::text));
    RETURN result.tail;
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
CREATE FUNCTION run_gateway.read_page(
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
CREATE FUNCTION run_gateway.touch(paths text[]) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    UPDATE run_gateway.streams s SET expires_at = clock_timestamp() + s.ttl * interval '1 second'
      FROM (SELECT v.id FROM run_gateway.streams v  -- in the order in which batches of appends lock theirs
             WHERE v.path = ANY (paths) AND v.ttl IS NOT NULL AND NOT v.gone AND run_gateway.live(v)
             ORDER BY v.path FOR NO KEY UPDATE) locked
     WHERE s.id = locked.id;
END;


-- Takes a stream's path away (its events are purged later), or keeps it for its forks alone (§4.2). The last fork
-- of a soft-deleted source takes the source with it, up the chain.
CREATE FUNCTION run_gateway.remove_stream(doomed bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.streams;
BEGIN
    SELECT * INTO s FROM run_gateway.streams WHERE id = doomed FOR UPDATE;
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


CREATE FUNCTION run_gateway.delete_stream(machine text, doomed text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.streams;
BEGIN
    -- A fork and those it comes from are locked in the order of all batches of appends: neither waits for the other.
    PERFORM 1 FROM run_gateway.streams v
      WHERE v.path = doomed OR v.id IN (
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
CREATE FUNCTION run_gateway.create_stream(
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
            path, content_type, media_type, tail, closed, ttl, expires_at, expires_header,
            forked_from, fork_anchor, fork_sub_offset, fork_source, lineage, lineage_ends)
        SELECT wanted, create_stream.content_type, coalesce(source.media_type, wanted_media_type),
               at + (prefix IS NOT NULL)::integer + coalesce(cardinality(events), 0), wanted_closed,
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
    verdict := 'created';
END
$$;


-- Takes away streams that have expired, and some of the rows of streams that were removed. Small steps, skipping what
-- others hold: any Machine may call it at any time. Returns how many rows went: call again while it is not zero.
CREATE FUNCTION run_gateway.purge(most integer) RETURNS bigint
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
        PERFORM run_gateway.remove_stream(doomed);
        removed := removed + 1;
    END LOOP;
    FOR doomed IN SELECT s.id FROM run_gateway.streams s WHERE s.path IS NULL ORDER BY s.id LIMIT 100 FOR UPDATE SKIP LOCKED
    LOOP
        DELETE FROM run_gateway.events e WHERE e.stream = doomed AND e.seq IN (
            SELECT v.seq FROM run_gateway.events v WHERE v.stream = doomed ORDER BY v.seq LIMIT most);
        GET DIAGNOSTICS n = ROW_COUNT;
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
