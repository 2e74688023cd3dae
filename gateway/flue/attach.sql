-- Tells the gateways of each event of a run, and of its end, inside Flue's own transaction: the payload is that of
-- run_gateway.news, with U+001F before the path. Repeatable. Nothing here may fail an append of Flue's: only functions
-- of pg_catalog are called, what is not there or not allowed is not asked for, and what does not fit is left out.
--
-- A transaction that notifies holds a lock of the whole database until it is flushed: if every append did, all of them
-- would go in single file. So only one notifies at a time; whoever commits meanwhile says nothing and waits for nobody,
-- and a Machine that hears of one looks for others a moment later (gateway.flue.face).
--
-- News is told on the channel that only those know who may write events, if the app's role is one of them; what is told
-- on the other, without the event, makes a Machine look (log/sql/functions/news.sql).

CREATE SCHEMA IF NOT EXISTS run_gateway;

CREATE OR REPLACE FUNCTION run_gateway.flue_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    hint    text := concat_ws(E'\n', 'flue', E'\x1f' || NEW.path, NEW.seq + 1, NEW.seq + 1, 'open');
    news    text := concat_ws(E'\n', hint, NEW.data);
    channel text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1718383974) THEN  -- "flue" + 1
        RETURN NULL;
    END IF;
    IF has_schema_privilege('run_gateway', 'USAGE') THEN
        IF has_table_privilege(to_regclass('run_gateway.channel'), 'SELECT') THEN
            SELECT c.name INTO channel FROM run_gateway.channel c;
        END IF;
    END IF;
    IF channel IS NOT NULL THEN
        -- More than 7,999 bytes fail the transaction: the event is read from its table instead.
        PERFORM pg_notify(channel, CASE WHEN octet_length(news) <= 7999 THEN news ELSE hint END);
    END IF;
    PERFORM pg_notify('run_gateway', hint);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION run_gateway.flue_closed() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    hint    text := concat_ws(E'\n', 'flue', E'\x1f' || NEW.path, NEW.next_offset + 1, NEW.next_offset, 'closed');
    channel text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1718383974) THEN
        RETURN NULL;
    END IF;
    IF has_schema_privilege('run_gateway', 'USAGE') THEN
        IF has_table_privilege(to_regclass('run_gateway.channel'), 'SELECT') THEN
            SELECT c.name INTO channel FROM run_gateway.channel c;
        END IF;
    END IF;
    IF channel IS NOT NULL THEN
        PERFORM pg_notify(channel, hint || E'\n');  -- with events, of which there are none
    END IF;
    PERFORM pg_notify('run_gateway', hint);
    RETURN NULL;
END
$$;

-- The tables in the order in which an append of Flue's takes them: the other way round, the two wait for each other.
CREATE OR REPLACE TRIGGER run_gateway_closed AFTER UPDATE OF closed ON flue_event_streams FOR EACH ROW
    WHEN (NEW.closed AND NOT OLD.closed AND starts_with(NEW.path, 'runs/') AND length(NEW.path) <= 1024)
    EXECUTE FUNCTION run_gateway.flue_closed();

CREATE OR REPLACE TRIGGER run_gateway_event AFTER INSERT ON flue_event_stream_entries FOR EACH ROW
    WHEN (starts_with(NEW.path, 'runs/') AND length(NEW.path) <= 1024)
    EXECUTE FUNCTION run_gateway.flue_event();
