-- Tells the gateways of what a Flue app writes, inside Flue's own transaction: of each event of a run, of its end, and of each
-- batch of a conversation. The payload is that of run_gateway.news, with U+001F before the path. Repeatable. Nothing here may
-- fail an append of Flue's: only functions of pg_catalog are called, what is not there or not allowed is not asked for, and
-- what does not fit is left out.
--
-- A transaction that notifies holds a lock of the whole database until it is flushed: if every append did, all of them
-- would go in single file. So only one notifies at a time; whoever commits meanwhile says nothing and waits for nobody,
-- and a Machine that hears of one looks for others a moment later (gateway.flue.news). The argument is the lock's number:
-- "flue" + 1 for runs, + 2 for conversations.
--
-- News is told on the channel that only those know who may write events, if the app's role is one of them; what is told
-- on the other, without the event, makes a Machine look (log/sql/functions/news.sql). What a reader is shown of a batch depends
-- on those before it, so no batch is told: a Machine reads it.

CREATE SCHEMA IF NOT EXISTS run_gateway;

CREATE OR REPLACE FUNCTION run_gateway.flue_tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    hint    text;
    news    text;
    channel text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(TG_ARGV[0]::bigint) THEN
        RETURN NULL;
    END IF;
    IF TG_NAME = 'run_gateway_closed' THEN
        hint := concat_ws(E'\n', 'flue', E'\x1f' || NEW.path, NEW.next_offset + 1, NEW.next_offset, 'closed');
        news := hint || E'\n';  -- with events, of which there are none
    ELSE
        hint := concat_ws(E'\n', 'flue', E'\x1f' || NEW.path, NEW.seq + 1, NEW.seq + 1, 'open');
        IF TG_NAME = 'run_gateway_event' THEN
            news := concat_ws(E'\n', hint, NEW.data);
        END IF;
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
    IF channel IS NULL OR TG_NAME <> 'run_gateway_batch' THEN
        PERFORM pg_notify('run_gateway', hint);
    END IF;
    RETURN NULL;
END
$$;
