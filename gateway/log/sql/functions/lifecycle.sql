-- Streams come and go.


-- Whose rows the removal of a stream concerns, itself included: its control stream, if it is a run; the source whose
-- `forks` counts it, and the next one, as long as a source is kept for its forks alone.
CREATE OR REPLACE FUNCTION run_gateway.concerned(doomed bigint) RETURNS bigint[]
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s   record;
    ids bigint[] := ARRAY[doomed];
BEGIN
    SELECT v.path, v.fork_source INTO s FROM run_gateway.streams v WHERE v.id = doomed;
    IF run_gateway.is_run(s.path) THEN
        ids := ids || ARRAY(SELECT v.id FROM run_gateway.streams v WHERE v.path = s.path || '/control');
    END IF;
    FOR level IN 1 .. 1000 LOOP
        EXIT WHEN s.fork_source IS NULL;
        ids := ids || s.fork_source;
        SELECT CASE WHEN v.gone THEN v.fork_source END AS fork_source INTO s
          FROM run_gateway.streams v WHERE v.id = s.fork_source;
    END LOOP;
    RETURN ids;
END
$$;


-- Takes a stream's path away (its events are purged later), or keeps it for its forks alone (§4.2), with its record and
-- its control stream. The last fork of a soft-deleted source takes the source with it, up the chain: a loop, for clients
-- make it as long as they like. No row is waited for: everything that a step changes is locked before. False: another session
-- holds such a row, and nothing has been changed. A source further up whose row is held is left to `purge`.
CREATE OR REPLACE FUNCTION run_gateway.take_away(doomed bigint) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s       record;
    at      bigint := doomed;
    control bigint;
    free    boolean;
BEGIN
    FOR level IN 1 .. 1000 LOOP
        SELECT v.path, v.gone, v.forks, v.fork_source INTO s FROM run_gateway.streams v
         WHERE v.id = at AND v.path IS NOT NULL FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN level > 1;
        END IF;
        IF s.forks = 0 AND s.fork_source IS NOT NULL THEN
            PERFORM 1 FROM run_gateway.streams v WHERE v.id = s.fork_source FOR UPDATE SKIP LOCKED;
            free := FOUND;
        ELSE
            free := true;
        END IF;
        IF free AND run_gateway.is_run(s.path) THEN
            free := run_gateway.is_free(at);
            SELECT v.id INTO control FROM run_gateway.streams v WHERE v.path = s.path || '/control' AND NOT v.gone;
            IF free AND FOUND THEN
                free := run_gateway.take_away(control);   -- which is no run: this goes no deeper
            END IF;
            IF free THEN
                INSERT INTO run_gateway.removed_runs (stream, tenant, id, workflow_name, status, started_at, ended_at,
                                                      is_error, metadata, cancel_requested_at)
                SELECT r.stream, r.tenant, r.id, r.workflow_name, r.status, r.started_at, r.ended_at, r.is_error,
                       r.metadata, r.cancel_requested_at
                  FROM run_gateway.runs r WHERE r.stream = at
                ON CONFLICT DO NOTHING;
                DELETE FROM run_gateway.runs r WHERE r.stream = at;
                DELETE FROM run_gateway.leases l WHERE l.stream = at;
            END IF;
        END IF;
        IF NOT free THEN
            RETURN level > 1;
        END IF;
        DELETE FROM run_gateway.expiries e WHERE e.stream = at;
        IF s.forks > 0 THEN
            UPDATE run_gateway.streams v SET gone = true, expires_at = NULL WHERE v.id = at;
            RETURN true;
        END IF;
        UPDATE run_gateway.streams v SET path = NULL, gone = true WHERE v.id = at;
        UPDATE run_gateway.streams v SET forks = v.forks - 1 WHERE v.id = s.fork_source
        RETURNING CASE WHEN v.gone AND v.forks = 0 THEN v.id END INTO at;
        EXIT WHEN at IS NULL;
    END LOOP;
    RETURN true;
END
$$;


-- Whether nobody holds what is kept of a stream beside its row: its record, and when to look at its lease and its end.
-- Locks it.
CREATE OR REPLACE FUNCTION run_gateway.is_free(wanted bigint) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    PERFORM 1 FROM run_gateway.leases l WHERE l.stream = wanted FOR UPDATE SKIP LOCKED;
    IF NOT FOUND AND EXISTS (SELECT FROM run_gateway.leases l WHERE l.stream = wanted) THEN
        RETURN false;
    END IF;
    PERFORM 1 FROM run_gateway.runs r WHERE r.stream = wanted FOR UPDATE SKIP LOCKED;
    RETURN FOUND OR NOT EXISTS (SELECT FROM run_gateway.runs r WHERE r.stream = wanted);
END
$$;


-- Locks whatever the removal of a stream concerns, and another stream as well, in the order of all batches of appends:
-- neither waits for the other. Waits as long as the caller's lock_timeout says.
CREATE OR REPLACE FUNCTION run_gateway.lock_concerned(doomed bigint, other bigint) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    ids bigint[] := run_gateway.concerned(doomed);
BEGIN
    -- One that was removed by now has no place in that order any more.
    PERFORM 1 FROM run_gateway.streams v WHERE v.id = ANY (ids || other) AND v.path IS NOT NULL ORDER BY v.path FOR UPDATE;
    PERFORM 1 FROM run_gateway.leases l WHERE l.stream = doomed FOR UPDATE;
    PERFORM 1 FROM run_gateway.runs r WHERE r.stream = doomed FOR UPDATE;
    PERFORM 1 FROM run_gateway.expiries e WHERE e.stream = doomed FOR UPDATE;
END
$$;


CREATE OR REPLACE FUNCTION run_gateway.delete_stream(machine text, doomed text) RETURNS text
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s     run_gateway.streams;
    alive boolean;
BEGIN
    SELECT * INTO s FROM run_gateway.streams v WHERE v.path = doomed;
    PERFORM run_gateway.lock_concerned(s.id, NULL);
    SELECT * INTO s FROM run_gateway.streams v WHERE v.id = s.id AND v.path = doomed;
    IF NOT FOUND THEN   -- or no more, and what is there now came later
        RETURN 'not_found';
    ELSIF s.gone THEN
        RETURN 'gone';
    END IF;
    alive := run_gateway.live(s);
    IF NOT run_gateway.take_away(s.id) THEN
        RAISE lock_not_available USING MESSAGE = format('Another transaction writes to what belongs to %s.', doomed);
    END IF;
    IF NOT alive THEN
        RETURN 'not_found';
    END IF;
    PERFORM run_gateway.tell(machine, ARRAY[concat_ws(E'\n', machine, doomed, 0, 0, 'deleted')]);
    RETURN 'deleted';
END
$$;


-- §5.1 and §4.2: creates a stream or a fork, or confirms that it exists as asked for. A chain of forks is at most
-- `most_depth` long, and one stream has at most `most_forks`. A run may be given a lease; one that exists keeps its own.
-- `copied`: bytes that were written for a fork that begins in the middle of an append. Its first events are rows, or many of
-- a JSON stream are pages, as those of run_gateway.add_pages are.
CREATE OR REPLACE FUNCTION run_gateway.make_stream_v2(
    wanted text, wanted_content_type text, wanted_media_type text, wanted_ttl bigint, wanted_expiry timestamptz,
    wanted_expires_header text, wanted_closed boolean, source_path text, anchor bigint, sub_offset bigint, events bytea[],
    wanted_lease integer, most_depth integer, most_forks integer,
    page_ordinals integer[], page_counts integer[], page_bodies bytea[], page_lengths integer[],
    OUT verdict text, OUT tail bigint, OUT closed boolean, OUT content_type text, OUT copied bigint
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    s       run_gateway.streams;
    source  run_gateway.streams;
    prefix  bytea;
    cut     bigint;
    at      bigint := 0;
    locked  bigint;
BEGIN
    -- Locked in the order of all batches. What is found only then is locked without waiting, for that order's sake.
    SELECT * INTO s FROM run_gateway.streams v WHERE v.path = wanted;
    locked := s.id;
    IF s.id IS NOT NULL AND NOT s.gone AND NOT run_gateway.live(s) THEN
        PERFORM run_gateway.lock_concerned(s.id, (SELECT v.id FROM run_gateway.streams v WHERE v.path = source_path));
    ELSE
        PERFORM 1 FROM run_gateway.streams v WHERE v.path = ANY (ARRAY[wanted, source_path]) ORDER BY v.path FOR UPDATE;
    END IF;
    LOOP
        SELECT * INTO s FROM run_gateway.streams v WHERE v.path = wanted;
        IF s.id <> coalesce(locked, 0) THEN
            IF locked IS NULL AND source_path IS NULL THEN   -- nothing else is locked
                SELECT * INTO s FROM run_gateway.streams v WHERE v.path = wanted FOR UPDATE;
            ELSE
                SELECT * INTO s FROM run_gateway.streams v WHERE v.path = wanted FOR UPDATE SKIP LOCKED;
            END IF;
            IF NOT FOUND AND source_path IS NULL AND locked IS NULL THEN
                CONTINUE;   -- it was removed meanwhile
            ELSIF NOT FOUND THEN
                RAISE lock_not_available USING MESSAGE = format('Another transaction makes or removes %s at this moment.', wanted);
            END IF;
            locked := s.id;
        END IF;
        IF s.id IS NOT NULL AND NOT s.gone AND NOT run_gateway.live(s) THEN
            IF NOT run_gateway.take_away(s.id) THEN
                RAISE lock_not_available USING MESSAGE = format('Another transaction writes to what belongs to %s.', wanted);
            END IF;
            -- Its followers find out which of the two that is.
            PERFORM run_gateway.tell('', ARRAY[concat_ws(E'\n', '', wanted, 0, 0, 'open')]);
            SELECT * INTO s FROM run_gateway.streams v WHERE v.path = wanted;
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
                             AND (anchor IS NULL OR s.fork_anchor = run_gateway.number(anchor))
                             AND s.fork_sub_offset = coalesce(sub_offset, 0)
                            THEN 'exists' ELSE 'conflict' END;
            tail := run_gateway.marked(s.tail, s.breaks); closed := s.closed; content_type := s.content_type;
            RETURN;
        END IF;

        content_type := wanted_content_type;
        IF source_path IS NOT NULL THEN
            SELECT * INTO source FROM run_gateway.streams v WHERE v.path = source_path FOR UPDATE SKIP LOCKED;
            IF NOT FOUND AND EXISTS (SELECT FROM run_gateway.streams v WHERE v.path = source_path) THEN
                RAISE lock_not_available USING MESSAGE = format('Another transaction makes or removes %s at this moment.', source_path);
            END IF;
            -- The type is judged before a reference is taken: a refused fork must not pin its source.
            verdict := CASE WHEN source.id IS NULL OR (NOT source.gone AND NOT run_gateway.live(source)) THEN 'source_not_found'
                            WHEN source.gone THEN 'source_gone'
                            WHEN wanted_content_type IS NOT NULL AND wanted_media_type <> source.media_type THEN 'content_type'
                            WHEN anchor IS NOT NULL AND run_gateway.known(anchor, source.tail, source.breaks) IS NULL THEN 'fork_offset'
                            WHEN source.forks >= most_forks THEN 'fork_count'
                            WHEN run_gateway.is_deep(source.id, most_depth) THEN 'fork_depth' END;
            IF verdict IS NOT NULL THEN
                RETURN;
            END IF;
            cut := coalesce(run_gateway.number(anchor), source.tail);
            at := cut;
            IF sub_offset > 0 AND source.media_type = 'application/json' THEN
                at := at + sub_offset;
                IF at > source.tail THEN
                    verdict := 'fork_sub_offset';
                    RETURN;
                END IF;
            ELSIF sub_offset > 0 THEN
                SELECT substring(e.body FROM 1 FOR least(sub_offset, 2147483647)::integer),
                       at + (octet_length(e.body) = sub_offset)::integer
                  INTO prefix, at FROM run_gateway.read_page(source_path, run_gateway.marked(at, source.breaks), NULL, 1, false) e
                 WHERE octet_length(e.body) >= sub_offset;
                IF NOT FOUND THEN
                    verdict := 'fork_sub_offset';
                    RETURN;
                END IF;
                IF at > cut THEN
                    prefix := NULL;   -- the whole next append is inherited: no part of it needs a copy
                END IF;
            END IF;
            content_type := coalesce(wanted_content_type, source.content_type);
        END IF;

        INSERT INTO run_gateway.streams AS n (
            path, content_type, media_type, tail, closed, closed_at, ttl, expires_at, expires_header,
            forked_from, fork_anchor, fork_sub_offset, fork_source, lineage, lineage_ends)
        SELECT wanted, make_stream_v2.content_type, coalesce(source.media_type, wanted_media_type),
               at + (prefix IS NOT NULL)::integer + coalesce(cardinality(events), 0) + coalesce(cardinality(page_lengths), 0),
               wanted_closed,
               CASE WHEN wanted_closed THEN clock_timestamp() END,
               x.ttl, CASE WHEN x.ttl IS NOT NULL THEN clock_timestamp() + x.ttl * interval '1 second' ELSE x.expiry END,
               x.header, source_path, CASE WHEN source_path IS NOT NULL THEN cut END,
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
        RETURNING n.id, run_gateway.marked(n.tail, n.breaks), n.closed, n.expires_at INTO s.id, tail, closed, s.expires_at;
        EXIT WHEN FOUND;   -- else another session made it at this moment: judge again
    END LOOP;

    IF source.id IS NOT NULL THEN
        UPDATE run_gateway.streams v SET forks = v.forks + 1 WHERE v.id = source.id;
        copied := octet_length(prefix);
    END IF;
    IF s.expires_at IS NOT NULL THEN
        INSERT INTO run_gateway.expiries (stream, check_at) VALUES (s.id, s.expires_at);
    END IF;
    INSERT INTO run_gateway.events (stream, seq, data)
    SELECT s.id, at + e.i, e.data
      FROM unnest(CASE WHEN prefix IS NULL THEN events ELSE prefix || events END) WITH ORDINALITY AS e(data, i);
    INSERT INTO run_gateway.pages (stream, first, last, body, lengths)
    SELECT s.id, at + p.ordinal, at + p.ordinal + p.count - 1, p.body, page_lengths[p.until - p.count + 1 : p.until]
      FROM (SELECT u.*, sum(u.count) OVER (ORDER BY u.i)::integer AS until
              FROM unnest(page_ordinals, page_counts, page_bodies) WITH ORDINALITY AS u(ordinal, count, body, i)) p;
    IF wanted_closed THEN
        PERFORM run_gateway.end_run(s.id);
    ELSIF wanted_lease IS NOT NULL THEN
        UPDATE run_gateway.streams v SET lease = wanted_lease, lease_until = run_gateway.leased_until(wanted_lease)
         WHERE v.id = s.id;
        PERFORM run_gateway.watch_leases(ARRAY[s.id], ARRAY[wanted_lease]);
    END IF;
    verdict := 'created';
END
$$;


-- Whether a stream stands at the end of a chain of at least so many forks.
CREATE OR REPLACE FUNCTION run_gateway.is_deep(wanted bigint, most integer) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    at bigint := wanted;
BEGIN
    FOR level IN 1 .. most LOOP
        SELECT v.fork_source INTO at FROM run_gateway.streams v WHERE v.id = at;
        IF at IS NULL THEN
            RETURN false;
        END IF;
    END LOOP;
    RETURN true;
END
$$;


-- Takes away streams that were closed at `after` or later and have been kept for as long as they are to be: all of the next
-- `most` that stand alone together, then up to 50 others one by one. Forks keep what they inherit. What another session holds is
-- left for another time, and so is a stream that cannot be taken away: it keeps no other from its turn. `removed`: how many;
-- call again while it is not zero. `until`: from where to go on. What lies before it has gone, but its entries stay in the index
-- for as long as any snapshot is older, and a step from the beginning would look at all of them.
CREATE OR REPLACE FUNCTION run_gateway.retire_next(
    after timestamptz, keep interval, most integer, OUT removed bigint, OUT until timestamptz
)
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    -- Taken before: an index is not asked for what clock_timestamp() gives, which changes with each row.
    this   timestamptz := clock_timestamp();
    since  timestamptz := this - keep;
    next   bigint[];
    last   timestamptz;
    doomed bigint;
BEGIN
    SELECT coalesce(array_agg(v.id), '{}'), max(v.closed_at) INTO next, last
      FROM (SELECT s.id, s.closed_at FROM run_gateway.streams s
             WHERE s.closed_at >= after AND s.closed_at < since AND s.path IS NOT NULL AND NOT s.gone
             ORDER BY s.closed_at LIMIT most) v;
    removed := run_gateway.take_all_away(next);
    IF removed = cardinality(next) THEN
        until := last;
        RETURN;
    END IF;
    until := after;
    most := least(most, removed + 50);   -- see try_away
    FOR doomed IN
        SELECT s.id FROM run_gateway.streams s
         WHERE s.closed_at >= after AND s.closed_at < since AND s.path IS NOT NULL AND NOT s.gone
         ORDER BY s.closed_at LIMIT 20 * most
    LOOP
        removed := removed + run_gateway.try_away(doomed, false)::integer;
        -- What nobody has read for long comes from the disk: one step is short whatever it finds there.
        EXIT WHEN removed >= most OR removed > 0 AND clock_timestamp() > this + interval '0.05 seconds'
               OR clock_timestamp() > this + interval '1 second';
    END LOOP;
END
$$;


-- The same from the beginning.
CREATE OR REPLACE FUNCTION run_gateway.retire(keep interval, most integer) RETURNS bigint
LANGUAGE sql RETURN (SELECT r.removed FROM run_gateway.retire_next('-infinity', keep, most) r);


-- Takes away those of some streams that have neither forks nor sources, and of which nobody holds any part: as take_away does
-- each, but in one statement for each table. Returns how many; none, if one of them stands against it.
CREATE OR REPLACE FUNCTION run_gateway.take_all_away(doomed bigint[]) RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    free     bigint[];  -- locked; what belongs to one of them is locked, or the stream is left out
    locked   bigint[];
    owners   bigint[];  -- runs that have a control stream
    controls bigint[];  -- which these are
BEGIN
    free := ARRAY(SELECT s.id FROM run_gateway.streams s
                   WHERE s.id = ANY (doomed) AND s.path IS NOT NULL AND NOT s.gone AND s.forks = 0 AND s.fork_source IS NULL
                     FOR UPDATE SKIP LOCKED);
    SELECT array_agg(s.id), array_agg(c.id) INTO owners, controls
      FROM run_gateway.streams s CROSS JOIN LATERAL (
            SELECT v.id FROM run_gateway.streams v WHERE v.path = s.path || '/control' AND NOT v.gone OFFSET 0) c
     WHERE s.id = ANY (free) AND run_gateway.is_run(s.path);
    IF controls IS NOT NULL THEN
        locked := ARRAY(SELECT s.id FROM run_gateway.streams s
                         WHERE s.id = ANY (controls) AND s.path IS NOT NULL AND NOT s.gone AND s.forks = 0
                           AND s.fork_source IS NULL FOR UPDATE SKIP LOCKED);
        free := run_gateway.without(free, ARRAY(
            SELECT c.owner FROM unnest(owners, controls) AS c(owner, id) WHERE c.id <> ALL (locked)));
    END IF;
    locked := ARRAY(SELECT l.stream FROM run_gateway.leases l WHERE l.stream = ANY (free) FOR UPDATE SKIP LOCKED);
    free := run_gateway.without(free, ARRAY(
        SELECT l.stream FROM run_gateway.leases l WHERE l.stream = ANY (free) AND l.stream <> ALL (locked)));
    locked := ARRAY(SELECT r.stream FROM run_gateway.runs r WHERE r.stream = ANY (free) FOR UPDATE SKIP LOCKED);
    free := run_gateway.without(free, ARRAY(
        SELECT r.stream FROM run_gateway.runs r WHERE r.stream = ANY (free) AND r.stream <> ALL (locked)));

    WITH removed AS (DELETE FROM run_gateway.runs r WHERE r.stream = ANY (free) RETURNING r.*)
    INSERT INTO run_gateway.removed_runs (stream, tenant, id, workflow_name, status, started_at, ended_at, is_error, metadata,
                                          cancel_requested_at)
    SELECT r.stream, r.tenant, r.id, r.workflow_name, r.status, r.started_at, r.ended_at, r.is_error, r.metadata,
           r.cancel_requested_at
      FROM removed r
    ON CONFLICT DO NOTHING;
    DELETE FROM run_gateway.leases l WHERE l.stream = ANY (free);
    locked := free || ARRAY(SELECT c.id FROM unnest(owners, controls) AS c(owner, id) WHERE c.owner = ANY (free));
    DELETE FROM run_gateway.expiries e WHERE e.stream = ANY (locked);
    UPDATE run_gateway.streams s SET path = NULL, gone = true WHERE s.id = ANY (locked);
    RETURN cardinality(free);
EXCEPTION WHEN OTHERS THEN
    RETURN 0;   -- which of them it was, and why, is said as they are taken away one by one
END
$$;


-- Those numbers that are not among others, in their order.
CREATE OR REPLACE FUNCTION run_gateway.without(numbers bigint[], others bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN others = '{}' THEN numbers
            ELSE ARRAY(SELECT n.id FROM unnest(numbers) WITH ORDINALITY AS n(id, i) WHERE n.id <> ALL (others) ORDER BY n.i) END;


-- Takes a stream away, if no session holds it and nothing stands against it; its followers hear of it if `tell` is set.
-- Each is a subtransaction: with more than 64 in one transaction, every other one has to ask the disk whose they are.
CREATE OR REPLACE FUNCTION run_gateway.try_away(doomed bigint, tell boolean) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    place text;
BEGIN
    SELECT s.path INTO place FROM run_gateway.streams s WHERE s.id = doomed;
    IF NOT run_gateway.take_away(doomed) THEN
        RETURN false;
    END IF;
    IF tell THEN
        PERFORM run_gateway.tell('', ARRAY[concat_ws(E'\n', '', place, 0, 0, 'deleted')]);
    END IF;
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'run_gateway: stream % cannot be removed: % (%)', doomed, SQLERRM, SQLSTATE;
    RETURN false;
END
$$;


-- Takes away streams that have expired, and some of the events of streams after `after` that were removed. Small steps,
-- skipping what others hold: any Machine may call it at any time. `removed`: how many rows went; call again while it is not
-- zero. `until`: after which to go on, as in retire_next.
CREATE OR REPLACE FUNCTION run_gateway.purge_next(after bigint, most integer, OUT removed bigint, OUT until bigint)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    doomed  bigint;
    since   timestamptz := clock_timestamp() - interval '1 hour';  -- for which live lists can go on where they were
    ids     bigint[];
    n       bigint;
    told    boolean;
BEGIN
    removed := run_gateway.expire(50);   -- with what follows fewer than 64 at a time: see try_away
    until := after;
    FOR doomed IN
        SELECT s.id FROM run_gateway.streams s WHERE s.gone AND s.forks = 0 AND s.path IS NOT NULL ORDER BY s.id LIMIT 10
    LOOP
        removed := removed + run_gateway.try_away(doomed, false)::integer;
    END LOOP;
    told := removed > 0;
    DELETE FROM run_gateway.removed_runs d WHERE (d.removed_by, d.stream) IN (
        SELECT v.removed_by, v.stream
          FROM (SELECT * FROM run_gateway.removed_runs o ORDER BY o.removed_by, o.stream LIMIT least(most, 1000)) v
         WHERE v.removed_at < since);
    GET DIAGNOSTICS n = ROW_COUNT;
    removed := removed + n;
    ids := ARRAY(SELECT s.id FROM run_gateway.streams s WHERE s.path IS NULL AND s.id > after ORDER BY s.id
                  LIMIT least(most, 100) FOR UPDATE SKIP LOCKED);
    IF ids <> '{}' THEN
        n := run_gateway.purge_events_of(ids, most);
        removed := removed + n;
        IF n < most THEN
            DELETE FROM run_gateway.producers p WHERE p.stream = ANY (ids);
            DELETE FROM run_gateway.streams s WHERE s.id = ANY (ids);
            removed := removed + cardinality(ids);
            until := ids[cardinality(ids)];
        END IF;
    END IF;
    IF NOT told THEN   -- of what went, nobody could know any more: what a crash takes back is as good as what it leaves
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
END
$$;


-- The same from the beginning.
CREATE OR REPLACE FUNCTION run_gateway.purge(most integer) RETURNS bigint
LANGUAGE sql RETURN (SELECT p.removed FROM run_gateway.purge_next(0, most) p);


-- Takes away up to `most` streams that have expired, and moves on the look at those that have not, but were to be looked
-- at by now. One that is held, or cannot be taken away, is looked at again later. A step is short, as in retire. Returns how
-- many were taken away, and 1 if none was, but others were moved on and there may be more: call again while it is not zero.
CREATE OR REPLACE FUNCTION run_gateway.expire(most integer) RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    this    timestamptz := clock_timestamp();
    until   timestamptz := this + interval '0.05 seconds';
    due     bigint[];
    doomed  bigint;
    removed bigint := 0;
    moved   bigint := 0;
    n       bigint;
    gone    boolean;
BEGIN
    LOOP
        due := ARRAY(SELECT e.stream FROM run_gateway.expiries e WHERE e.check_at < this
                      ORDER BY e.check_at LIMIT 500 FOR UPDATE SKIP LOCKED);
        DELETE FROM run_gateway.expiries e
         WHERE e.stream = ANY (due) AND NOT EXISTS (
            SELECT FROM run_gateway.streams s
             WHERE s.id = e.stream AND s.path IS NOT NULL AND NOT s.gone AND s.expires_at IS NOT NULL);
        GET DIAGNOSTICS n = ROW_COUNT;
        moved := moved + n;
        UPDATE run_gateway.expiries e SET check_at = greatest(s.expires_at, e.kept_until)
          FROM run_gateway.streams s
         WHERE e.stream = ANY (due) AND s.id = e.stream AND greatest(s.expires_at, e.kept_until) > this;
        GET DIAGNOSTICS n = ROW_COUNT;
        moved := moved + n;
        FOR doomed IN
            SELECT e.stream FROM run_gateway.expiries e WHERE e.stream = ANY (due) AND e.check_at < this ORDER BY e.check_at
        LOOP
            EXIT WHEN removed >= most OR removed + moved > 0 AND clock_timestamp() > until;
            -- Asked once more under the row's lock, for a sign of life may just have been committed.
            PERFORM 1 FROM run_gateway.streams s WHERE s.id = doomed FOR UPDATE SKIP LOCKED;
            gone := FOUND AND NOT EXISTS (SELECT FROM run_gateway.streams s WHERE s.id = doomed AND run_gateway.live(s))
                    AND run_gateway.try_away(doomed, true);
            removed := removed + gone::integer;
            IF NOT gone THEN
                UPDATE run_gateway.expiries e SET check_at = this + interval '5 seconds' WHERE e.stream = doomed;
                moved := moved + 1;
            END IF;
        END LOOP;
        IF removed >= most OR removed + moved > 0 AND clock_timestamp() > until THEN
            RETURN greatest(removed, 1);
        END IF;
        EXIT WHEN cardinality(due) < 500;
    END LOOP;
    RETURN removed;
END
$$;


-- Some of the events of streams whose rows are locked, those of the first streams first, and the oldest of each. A page counts
-- as ten rows: it is some more in the TOAST table. Returns fewer than `most` when nothing is left.
CREATE OR REPLACE FUNCTION run_gateway.purge_events_of(doomed bigint[], most integer) RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    few   integer := greatest(most / 10, 1);
    pages bigint;
    n     bigint;
BEGIN
    -- By their places: nobody else changes them, and the index has been asked once already.
    DELETE FROM run_gateway.pages p WHERE p.ctid = ANY (ARRAY(
        SELECT v.ctid FROM unnest(doomed) AS u(id) CROSS JOIN LATERAL (
            SELECT o.ctid FROM run_gateway.pages o WHERE o.stream = u.id ORDER BY o.last LIMIT few) v LIMIT few));
    GET DIAGNOSTICS pages = ROW_COUNT;
    IF pages >= few THEN
        RETURN most;
    END IF;
    most := most - pages * 10;
    DELETE FROM run_gateway.events e WHERE e.ctid = ANY (ARRAY(
        SELECT v.ctid FROM unnest(doomed) AS u(id) CROSS JOIN LATERAL (
            SELECT o.ctid FROM run_gateway.events o WHERE o.stream = u.id ORDER BY o.seq LIMIT most) v LIMIT most));
    GET DIAGNOSTICS n = ROW_COUNT;
    RETURN pages * 10 + n;
END
$$;
