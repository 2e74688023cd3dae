-- Takes away what the scripts beside this one have put there, in the same order of tables. Repeatable, also where Flue's tables are gone.

DROP TRIGGER IF EXISTS run_gateway_closed ON flue_event_streams;
DROP TRIGGER IF EXISTS run_gateway_event ON flue_event_stream_entries;
DROP TRIGGER IF EXISTS run_gateway_batch ON flue_conversation_stream_batches;
DROP FUNCTION IF EXISTS run_gateway.flue_tell(), run_gateway.flue_event(), run_gateway.flue_closed(), run_gateway.flue_batch();
