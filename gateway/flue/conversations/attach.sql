-- Tells the gateways that a conversation has a new batch, inside Flue's own transaction, as `gateway/flue/attach.sql`
-- does of runs, whose comments say why it is done so. What a reader is shown of a batch depends on those before it, so
-- the batch itself is not told: a Machine reads it.

CREATE SCHEMA IF NOT EXISTS run_gateway;

CREATE OR REPLACE FUNCTION run_gateway.flue_batch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    hint    text := concat_ws(E'\n', 'flue', E'\x1f' || NEW.path, NEW.seq + 1, NEW.seq + 1, 'open');
    channel text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1718383975) THEN  -- "flue" + 2
        RETURN NULL;
    END IF;
    IF has_schema_privilege('run_gateway', 'USAGE') THEN
        IF has_table_privilege(to_regclass('run_gateway.channel'), 'SELECT') THEN
            SELECT c.name INTO channel FROM run_gateway.channel c;
        END IF;
    END IF;
    PERFORM pg_notify(coalesce(channel, 'run_gateway'), hint);
    RETURN NULL;
END
$$;

CREATE OR REPLACE TRIGGER run_gateway_batch AFTER INSERT ON flue_conversation_stream_batches FOR EACH ROW
    WHEN (starts_with(NEW.path, 'agents/') AND length(NEW.path) <= 1024)
    EXECUTE FUNCTION run_gateway.flue_batch();
