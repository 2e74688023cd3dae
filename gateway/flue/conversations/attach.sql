-- The trigger on the table of a Flue 2.x app's conversations. Repeatable.

CREATE OR REPLACE TRIGGER run_gateway_batch AFTER INSERT ON flue_conversation_stream_batches FOR EACH ROW
    WHEN (starts_with(NEW.path, 'agents/') AND length(NEW.path) <= 1024)
    EXECUTE FUNCTION run_gateway.flue_tell(1718383975);

DROP FUNCTION IF EXISTS run_gateway.flue_batch();  -- which told before
