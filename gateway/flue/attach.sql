-- Tells the gateways of each event of a run, and of its end, inside Flue's own transaction: the payload is that of
-- run_gateway.news, with U+001F before the path. Repeatable. Nothing here may fail an append of Flue's: only functions
-- of pg_catalog are called, and what does not fit is left out.

CREATE SCHEMA IF NOT EXISTS run_gateway;

CREATE OR REPLACE FUNCTION run_gateway.flue_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    news text := concat_ws(E'\n', 'flue', E'\x1f' || NEW.path, NEW.seq + 1, NEW.seq + 1, 'open', NEW.data);
BEGIN
    IF octet_length(news) > 7999 THEN  -- more fails the transaction: the event is read from its table instead
        news := concat_ws(E'\n', 'flue', E'\x1f' || NEW.path, NEW.seq + 1, NEW.seq + 1, 'open');
    END IF;
    PERFORM pg_notify('run_gateway', news);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION run_gateway.flue_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('run_gateway', concat_ws(
        E'\n', 'flue', E'\x1f' || NEW.path, NEW.next_offset + 1, NEW.next_offset, 'closed', ''));
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER run_gateway_event AFTER INSERT ON flue_event_stream_entries FOR EACH ROW
    WHEN (starts_with(NEW.path, 'runs/') AND length(NEW.path) <= 1024)
    EXECUTE FUNCTION run_gateway.flue_event();

CREATE OR REPLACE TRIGGER run_gateway_closed AFTER UPDATE OF closed ON flue_event_streams FOR EACH ROW
    WHEN (NEW.closed AND NOT OLD.closed AND starts_with(NEW.path, 'runs/') AND length(NEW.path) <= 1024)
    EXECUTE FUNCTION run_gateway.flue_closed();
