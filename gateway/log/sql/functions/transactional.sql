-- The log for applications that have the database: inside the caller's own transaction, so that events commit, or not, with its
-- other changes. The same rules as over HTTP, and the same readers. What it costs: the stream's row is locked until the
-- caller's transaction ends, and a commit that notifies takes its turn with all others that do.


-- A position as it is written on the wire.
CREATE OR REPLACE FUNCTION run_gateway.offset_token(tail bigint) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN lpad((tail >> 40)::text, 16, '0') || '_' || lpad(run_gateway.number(tail)::text, 16, '0');


-- Appends an event, closes the stream, or both; the tail after it. Raises no_data_found when there is no such stream,
-- object_not_in_prerequisite_state when it takes no such event.
CREATE OR REPLACE FUNCTION run_gateway.append_text(path text, event text, closing boolean) RETURNS bigint
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    result record;
    n      integer := (event IS NOT NULL)::integer;
    s      record;
BEGIN
    -- Waits as long as the caller's own lock_timeout says, which append_one would not.
    SELECT v.id, v.ttl, v.lease INTO s FROM run_gateway.streams v
     WHERE v.path >= append_text.path AND v.path <= append_text.path ORDER BY v.path DESC LIMIT 1 FOR NO KEY UPDATE;
    SELECT * INTO result FROM run_gateway.append_one(
        path, CASE WHEN n = 1 THEN 'application/json' END, closing, NULL, NULL, NULL, NULL,
        CASE WHEN n = 1 THEN ARRAY[convert_to(event, 'UTF8')] END, NULL);
    IF result.outcome IN ('not_found', 'gone') THEN
        RAISE no_data_found USING MESSAGE = format('There is no stream at %s.', path);
    ELSIF result.outcome NOT IN ('appended', 'duplicate') THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = format('Stream %s refuses it: %s', path, result.outcome);
    END IF;
    IF result.outcome = 'appended' THEN
        PERFORM run_gateway.count_from_commit(s.id, s.ttl, s.lease);
        PERFORM run_gateway.tell('', ARRAY[run_gateway.news(
            '', path, result.tail - n + 1, result.tail, closing, coalesce(event, ''))]);
    END IF;
    RETURN result.tail;
END
$$;


-- The same for an event that Postgres writes.
CREATE OR REPLACE FUNCTION run_gateway.append_here(path text, event jsonb, closing boolean) RETURNS bigint
LANGUAGE sql BEGIN ATOMIC
    SELECT run_gateway.append_text(path, event::text, closing);
END;


-- Has a stream's TTL and its lease count from the commit of this transaction, which may be long. Until then others see no
-- sign of life but a lock: the stream lives while that is held.
CREATE OR REPLACE FUNCTION run_gateway.count_from_commit(stream bigint, ttl bigint, lease integer) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    IF num_nonnulls(ttl, lease) > 0 THEN
        IF ttl IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock(run_gateway.life_key(stream));
        END IF;
        INSERT INTO run_gateway.under_way (stream) VALUES (count_from_commit.stream) ON CONFLICT DO NOTHING;
    END IF;
END
$$;


-- What count_from_commit has noted, as the transaction commits. A sign of life of a moment ago is one of the commit, too.
CREATE OR REPLACE FUNCTION run_gateway.commits() RETURNS trigger
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    moment timestamptz := clock_timestamp() - interval '0.1 seconds';
BEGIN
    UPDATE run_gateway.streams s
       SET expires_at = run_gateway.slid(s.ttl, s.expires_at), lease_until = run_gateway.leased_until(s.lease)
     WHERE s.ctid = (SELECT v.ctid FROM run_gateway.streams v
                      WHERE v.id >= NEW.stream AND v.id <= NEW.stream ORDER BY v.id DESC LIMIT 1)  -- see append.sql
       AND s.path IS NOT NULL
       AND (s.expires_at < moment + s.ttl * interval '1 second' OR s.lease_until < moment + s.lease * interval '1 second');
    DELETE FROM run_gateway.under_way w WHERE w.transaction = NEW.transaction AND w.stream = NEW.stream;
    RETURN NULL;
END
$$;

-- Not replaced, for that would need the table for itself at each deploy.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = 'run_gateway.under_way'::regclass AND t.tgname = 'commits') THEN
        CREATE CONSTRAINT TRIGGER commits AFTER INSERT ON run_gateway.under_way
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION run_gateway.commits();
    END IF;
END
$$;


-- One event; the tail after it. Raises as append_here does.
CREATE OR REPLACE FUNCTION run_gateway.append_event(path text, event jsonb) RETURNS bigint
LANGUAGE sql BEGIN ATOMIC
    SELECT run_gateway.append_here(path, event, false);
END;


-- Refuses a transaction that does not see what others commit while it waits for a row: it would judge what a stream was.
CREATE OR REPLACE FUNCTION run_gateway.refuse_snapshots() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RAISE feature_not_supported USING
            MESSAGE = 'run_gateway needs transactions that are READ COMMITTED.',
            DETAIL = format('This one is %s.', upper(current_setting('transaction_isolation'))),
            HINT = 'Begin it with BEGIN ISOLATION LEVEL READ COMMITTED.';
    END IF;
END
$$;


-- Appends one event; the next offset. Raises as append_here does, and null_value_not_allowed without an event.
CREATE OR REPLACE FUNCTION run_gateway.append(path text, event jsonb) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM run_gateway.refuse_snapshots();
    IF event IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'There is no event to append: it is NULL.', HINT = 'JSON''s own is ''null''.';
    END IF;
    RETURN run_gateway.offset_token(run_gateway.append_here(path, event, false));
END
$$;


-- Closes a stream, after one last event if there is one; the final offset. Closing again is no error, unless with an
-- event. Raises as append_here does.
CREATE OR REPLACE FUNCTION run_gateway.close(path text, event jsonb DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM run_gateway.refuse_snapshots();
    RETURN run_gateway.offset_token(run_gateway.append_here(path, event, true));
END
$$;


-- What append does, for an event that is kept as it is written, but for its line breaks: jsonb takes neither a NUL nor
-- half of a surrogate pair, and writes spaces and names in its own way.
CREATE OR REPLACE FUNCTION run_gateway.append_json(path text, event json) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM run_gateway.refuse_snapshots();
    IF event IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'There is no event to append: it is NULL.', HINT = 'JSON''s own is ''null''.';
    END IF;
    RETURN run_gateway.offset_token(run_gateway.append_text(path, translate(event::text, E'\r\n', '  '), false));
END
$$;


-- What close does, likewise.
CREATE OR REPLACE FUNCTION run_gateway.close_json(path text, event json) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM run_gateway.refuse_snapshots();
    RETURN run_gateway.offset_token(run_gateway.append_text(path, translate(event::text, E'\r\n', '  '), true));
END
$$;


-- Whether a content type may be one, as the gateway judges it (protocol/content_type.py).
CREATE OR REPLACE FUNCTION run_gateway.is_content_type(wanted text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN char_length(wanted) <= 255 AND wanted ~ (
    E'^[!#$%&''*+.^_`|~0-9A-Za-z-]+/[!#$%&''*+.^_`|~0-9A-Za-z-]+([\t ]*;([\t ]*[!#$%&''*+.^_`|~0-9A-Za-z-]+='
    || E'([!#$%&''*+.^_`|~0-9A-Za-z-]+|"([\t !#-\\[\\]-~]|\\\\[\t -~])*"))?)*$');


-- Creates a stream, or with a path of runs/<id> a run, of which alone the last four may be given. False: it exists
-- just so. Raises duplicate_object when it exists differently, invalid_parameter_value for what no request could ask.
CREATE OR REPLACE FUNCTION run_gateway.create(
    path text, content_type text DEFAULT 'application/json', ttl bigint DEFAULT NULL, lease integer DEFAULT NULL,
    workflow_name text DEFAULT NULL, input jsonb DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    run        boolean := run_gateway.is_run(path);
    tenant     text := run_gateway.tenant_of(path) || CASE WHEN strpos(path, chr(31)) > 0 THEN chr(31) ELSE '' END;
    media_type text := lower(btrim(split_part(content_type, ';', 1), E' \t'));
    verdict    text;
BEGIN
    PERFORM run_gateway.refuse_snapshots();
    -- The one control character that may stand there is the tenant's.
    IF path IS NULL OR path !~ E'^([^[:cntrl:]]+\x1f)?[^[:cntrl:]]+$' OR octet_length(path) > 2048 + char_length(tenant)
       OR char_length(path) - char_length(tenant) > (CASE WHEN run THEN 261 ELSE 1024 END)
       OR path ~ E'^([^\x1f]*\x1f)?runs/[^/]+/(control|cancel|heartbeat|token)$'
       OR path ~ E'(^|[/\x1f])([.]|%2[eE]){1,2}(/|$)'  -- . and .., which clients and proxies leave out
       OR run_gateway.is_content_type(content_type) IS NOT TRUE OR ttl < 0 OR ttl > 9000000000 OR lease NOT BETWEEN 1 AND 3600
       OR (NOT run AND num_nonnulls(lease, workflow_name, input, metadata) > 0)
       OR jsonb_typeof(metadata) <> 'object'
       OR jsonb_path_exists(metadata, 'strict $.* ? (@ == null || @.type() == "object" || @.type() == "array")') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('No such stream can be created: %s', path);
    END IF;
    IF run THEN
        SELECT c.verdict INTO verdict FROM run_gateway.create_run(
            path, sha256(convert_to(jsonb_build_array(content_type, ttl, lease, workflow_name, input, metadata)::text, 'UTF8')),
            content_type, media_type, ttl, lease, workflow_name, input::json, metadata, NULL) c;
    ELSE
        SELECT c.verdict INTO verdict FROM run_gateway.make_stream_v2(
            path, content_type, media_type, ttl, NULL, NULL, false, NULL, NULL, NULL, '{}', NULL, 0, 0, NULL, NULL, NULL,
            NULL) c;
    END IF;
    IF verdict = 'created' THEN
        PERFORM run_gateway.count_from_commit(s.id, s.ttl, s.lease) FROM run_gateway.streams s WHERE s.path = "create".path;
    ELSIF verdict <> 'exists' THEN
        RAISE duplicate_object USING MESSAGE = format('Stream %s exists already, and differently.', path);
    END IF;
    RETURN verdict = 'created';
END
$$;
