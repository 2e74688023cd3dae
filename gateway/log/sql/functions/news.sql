-- How Machines hear of what others have written.


-- What a notification says: machine, path, first and last new event, whether it is closed, and the new events
-- themselves where they fit. NOTIFY takes at most 7,999 bytes; one more would fail the transaction.
CREATE OR REPLACE FUNCTION run_gateway.news(machine text, path text, first bigint, last bigint, closed boolean, body text)
RETURNS text LANGUAGE sql IMMUTABLE
RETURN concat_ws(E'\n', machine, path, first, last, CASE WHEN closed THEN 'closed' ELSE 'open' END,
                 CASE WHEN octet_length(machine) + octet_length(path) + octet_length(body) <= 7900 THEN body END);


-- What one that tells of several streams says of each: the same, but for the machine. Who calls this knows that it fits.
CREATE OR REPLACE FUNCTION run_gateway.one_of_news(path text, first bigint, last bigint, closed boolean, body text)
RETURNS text LANGUAGE sql IMMUTABLE
RETURN concat_ws(E'\n', path, first, last, CASE WHEN closed THEN 'closed' ELSE 'open' END, body);


-- The same without the events: on a channel that everybody knows, everybody may be listening.
CREATE OR REPLACE FUNCTION run_gateway.hint(news text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN array_to_string((string_to_array(news, E'\n'))[:5], E'\n');


-- Tells other Machines: those of this version on the channel that only those know who may write events; and those of
-- the version before on their own, unless the machine's name begins with "=", by which it says that there are none.
-- A role that may not know the channel gives a hint, upon which Machines look for themselves.
CREATE OR REPLACE FUNCTION run_gateway.tell(machine text, news text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    channel text;
BEGIN
    SELECT c.name INTO channel FROM run_gateway.channel c;
    IF channel IS NOT NULL THEN
        PERFORM pg_notify(channel, n.news) FROM unnest(tell.news) AS n(news);
        IF starts_with(machine, '=') THEN
            RETURN;
        END IF;
    END IF;
    PERFORM pg_notify('run_gateway', run_gateway.hint(n.news)) FROM unnest(tell.news) AS n(news);
END
$$;


-- Listens for news, and returns the channel's name. By a function, since others may see the statements of a session.
CREATE OR REPLACE FUNCTION run_gateway.listen() RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    channel text := (SELECT c.name FROM run_gateway.channel c);
BEGIN
    IF channel IS NULL THEN
        RAISE insufficient_privilege USING MESSAGE = 'Only a role that may write events hears of them.';
    END IF;
    EXECUTE format('LISTEN %I', channel);
    RETURN channel;
END
$$;


-- A Machine's sign of life, on both channels; how full the server's queue of notifications is.
CREATE OR REPLACE FUNCTION run_gateway.ping(sign text) RETURNS double precision
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(c.name, sign) FROM run_gateway.channel c;
    PERFORM pg_notify('run_gateway', sign);
    RETURN pg_notification_queue_usage();
END
$$;
