-- The triggers on the tables of a Flue beta's runs, in the order in which an append of Flue's takes these tables: the other way
-- round, the two wait for each other. Repeatable.

CREATE OR REPLACE TRIGGER run_gateway_closed AFTER UPDATE OF closed ON flue_event_streams FOR EACH ROW
    WHEN (NEW.closed AND NOT OLD.closed AND starts_with(NEW.path, 'runs/') AND length(NEW.path) <= 1024)
    EXECUTE FUNCTION run_gateway.flue_tell(1718383974);

CREATE OR REPLACE TRIGGER run_gateway_event AFTER INSERT ON flue_event_stream_entries FOR EACH ROW
    WHEN (starts_with(NEW.path, 'runs/') AND length(NEW.path) <= 1024)
    EXECUTE FUNCTION run_gateway.flue_tell(1718383974);

DROP FUNCTION IF EXISTS run_gateway.flue_event(), run_gateway.flue_closed();  -- which told before
