-- Epochs of the log. A server that takes over from another may lack the other's last events, and go on without them:
-- then the same number means two events. So each takeover begins an epoch, and a position tells both: its low 40 bits
-- how many events lie before it, the rest in which epoch the last of them was written. A stream's `breaks` say where its
-- epochs begin, in the same form; NULL: all is of epoch 0, and a position is a plain number.
--
-- What was lost cannot be known afterwards, and need not be: an event of a new epoch never has a position that was given
-- out in an earlier one, and positions of events that both servers have stay as they are.


-- How many events lie before a position.
CREATE OR REPLACE FUNCTION run_gateway.number(place bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE RETURN place & 1099511627775;


-- The position after so many of a stream's events.
CREATE OR REPLACE FUNCTION run_gateway.earlier_position(n bigint, breaks bigint[]) RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN n | coalesce((SELECT max(b) >> 40 << 40 FROM unnest(breaks) AS b WHERE b & 1099511627775 < n), 0);

CREATE OR REPLACE FUNCTION run_gateway.marked(n bigint, breaks bigint[]) RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN breaks IS NULL THEN n
            WHEN breaks[cardinality(breaks)] & 1099511627775 < n THEN breaks[cardinality(breaks)] >> 40 << 40 | n
            ELSE run_gateway.earlier_position(n, breaks) END;


-- How many events lie before a position of this very stream; NULL: the stream does not have it (any more).
CREATE OR REPLACE FUNCTION run_gateway.known(place bigint, tail bigint, breaks bigint[]) RETURNS bigint
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN place & 1099511627775 <= tail
             AND run_gateway.marked(place & 1099511627775, breaks) = place THEN place & 1099511627775 END;


-- How many events before a position are still those of this stream. Of an epoch that this log never went through, nobody
-- knows where it began: none.
CREATE OR REPLACE FUNCTION run_gateway.shared(place bigint, tail bigint, breaks bigint[]) RETURNS bigint
LANGUAGE sql STABLE
RETURN CASE WHEN run_gateway.known(place, tail, breaks) IS NOT NULL THEN place & 1099511627775
            WHEN EXISTS (SELECT FROM run_gateway.server s
                          WHERE s.one AND (s.epoch = place >> 40 OR place >> 40 = ANY (s.earlier)))
            THEN least(place & 1099511627775, tail, (
                SELECT min(b & 1099511627775) FROM unnest(breaks) AS b WHERE b >> 40 > place >> 40))
            ELSE 0 END;


-- The row of a server whose epoch begins. The step is random, so that two servers which take over from the same one do not
-- come to the same epoch. What the other server may have given out is not given again: numbers of streams, and of what is
-- subscribed to.
CREATE OR REPLACE FUNCTION run_gateway.later(s run_gateway.server) RETURNS run_gateway.server
LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
BEGIN
    s.earlier := s.earlier || s.epoch;
    s.epoch := s.epoch + 1 + floor(random() * 1024)::bigint;
    s.incarnation := gen_random_uuid();
    s.since := clock_timestamp();
    UPDATE run_gateway.subscription_changes SET version = version + 1000000;
    -- Transactions are numbered anew where a dump was restored. Live lists begin anew with each epoch.
    UPDATE run_gateway.runs r SET created_by = NULL, cancelled_by = NULL, ended_by = NULL
     WHERE coalesce(r.ended_by, r.cancelled_by, r.created_by) >= pg_current_xact_id();
    DELETE FROM run_gateway.removed_runs;
    BEGIN
        PERFORM setval(pg_get_serial_sequence('run_gateway.streams', 'id'),
                       nextval(pg_get_serial_sequence('run_gateway.streams', 'id')) + 1000000);
    EXCEPTION WHEN insufficient_privilege THEN
        NULL;  -- a role that does not own it may not
    END;
    RETURN s;
END
$$;


-- Compares the server with the one that was asked last, and begins an epoch when it is another one, or may be: another
-- system or timeline, or one that has restarted and does not say.
CREATE OR REPLACE FUNCTION run_gateway.meet_server() RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off
AS $$
DECLARE
    s            run_gateway.server;
    now_system   bigint;
    now_timeline text;
BEGIN
    SELECT * INTO s FROM run_gateway.server v WHERE v.one FOR NO KEY UPDATE;
    IF s.postmaster = pg_postmaster_start_time() THEN
        RETURN s.epoch;
    END IF;
    BEGIN
        now_system := system_identifier FROM pg_control_system();
        now_timeline := left(pg_walfile_name(pg_current_wal_insert_lsn()), 8);
    EXCEPTION WHEN OTHERS THEN
        NULL;  -- some providers' servers have no such functions, or do not let everybody ask
    END;
    IF s.postmaster IS NOT NULL AND (s.system, s.timeline) = (now_system, now_timeline) IS NOT TRUE THEN
        s := run_gateway.later(s);
    END IF;
    UPDATE run_gateway.server v
       SET epoch = s.epoch, earlier = s.earlier, incarnation = s.incarnation, since = s.since,
           postmaster = pg_postmaster_start_time(), system = now_system, timeline = now_timeline
     WHERE v.one;
    RETURN s.epoch;
END
$$;


-- Begins an epoch on a server that went back to an earlier moment and does not know it: a snapshot of its volume was put in
-- place, or a dump restored into it. An operator calls it; so does a Machine that notices, which gives the incarnation that
-- it has `seen`, so that of all who notice one begins it. Appends wait for it.
CREATE OR REPLACE FUNCTION run_gateway.new_epoch(seen uuid DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql
SET lock_timeout = '5s'
AS $$
DECLARE
    s run_gateway.server;
BEGIN
    LOCK TABLE run_gateway.streams IN EXCLUSIVE MODE;  -- an append locks a row first, and then asks for the epoch
    PERFORM run_gateway.meet_server();
    SELECT * INTO s FROM run_gateway.server v WHERE v.one FOR NO KEY UPDATE;
    IF s.incarnation <> seen THEN
        RETURN s.epoch;
    END IF;
    s := run_gateway.later(s);
    UPDATE run_gateway.server v SET epoch = s.epoch, earlier = s.earlier, incarnation = s.incarnation, since = s.since
     WHERE v.one;
    UPDATE run_gateway.streams v SET served = NULL WHERE v.served = pg_postmaster_start_time();
    RETURN s.epoch;
END
$$;


-- How far this server's log of changes is on disk, in bytes; NULL: it does not say. It never goes back, not by a crash.
CREATE OR REPLACE FUNCTION run_gateway.written() RETURNS bigint
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN pg_current_wal_flush_lsn() - '0/0'::pg_lsn;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;  -- a standby, or a provider's server that has no such function
END
$$;


-- The epoch that is written in.
CREATE OR REPLACE FUNCTION run_gateway.current_epoch() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    epoch bigint;
BEGIN
    SELECT v.epoch INTO epoch FROM run_gateway.server v WHERE v.one AND v.postmaster = pg_postmaster_start_time();
    RETURN CASE WHEN FOUND THEN epoch ELSE run_gateway.meet_server() END;
END
$$;


-- Which log this is: what every connection asks when it is opened, and each heartbeat. `writable`: this is no standby.
CREATE OR REPLACE FUNCTION run_gateway.identify(
    OUT epoch bigint, OUT incarnation uuid, OUT writable boolean, OUT system bigint, OUT timeline text, OUT since timestamptz
)
LANGUAGE plpgsql AS $$
BEGIN
    writable := NOT pg_is_in_recovery();
    IF writable AND current_setting('transaction_read_only') = 'off' THEN
        PERFORM run_gateway.current_epoch();
    END IF;
    SELECT v.epoch, v.incarnation, v.system, v.timeline, v.since INTO epoch, incarnation, system, timeline, since
      FROM run_gateway.server v WHERE v.one;
END
$$;


-- Notes that these streams, to which `added` events have just been appended, are written on this server from now on.
-- Within the life of a postmaster nothing of that changes, so an append compares when it had started, and asks no more.
CREATE OR REPLACE FUNCTION run_gateway.enter_epoch(streams bigint[], added integer) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    epoch bigint := run_gateway.current_epoch();
BEGIN
    UPDATE run_gateway.streams s
       SET served = pg_postmaster_start_time(),
           breaks = CASE WHEN epoch > coalesce(s.breaks[cardinality(s.breaks)] >> 40, 0)
                         THEN s.breaks || (epoch << 40 | s.tail - added) ELSE s.breaks END
     WHERE s.id = ANY (streams) AND s.served IS DISTINCT FROM pg_postmaster_start_time();
END
$$;


-- A new stream's own events are of this epoch; what a fork inherits keeps its positions.
CREATE OR REPLACE FUNCTION run_gateway.begin_stream() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    epoch     bigint;
    inherited bigint;
BEGIN
    SELECT v.epoch INTO epoch FROM run_gateway.server v WHERE v.one AND v.postmaster = pg_postmaster_start_time();
    IF NOT FOUND THEN
        epoch := run_gateway.meet_server();
    END IF;
    NEW.served := pg_postmaster_start_time();
    IF epoch = 0 THEN
        RETURN NEW;
    END IF;
    inherited := coalesce(NEW.lineage_ends[cardinality(NEW.lineage_ends)], 0);
    IF NEW.fork_source IS NOT NULL THEN
        SELECT array_agg(b ORDER BY b) INTO NEW.breaks
          FROM run_gateway.streams s CROSS JOIN unnest(s.breaks) AS b
         WHERE s.id = NEW.fork_source AND b & 1099511627775 < inherited;
    END IF;
    IF epoch > coalesce(NEW.breaks[cardinality(NEW.breaks)] >> 40, 0) THEN
        NEW.breaks := NEW.breaks || (epoch << 40 | inherited);
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER begin_stream BEFORE INSERT ON run_gateway.streams
FOR EACH ROW EXECUTE FUNCTION run_gateway.begin_stream();
