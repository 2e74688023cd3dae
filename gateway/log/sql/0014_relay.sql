-- Recordings: runs that the relay has made of an upstream's answers, and the keys by which their clients come back.

CREATE TABLE run_gateway.recordings (
    stream  bigint PRIMARY KEY,        -- no foreign key, as for events
    relay   text   NOT NULL,           -- the name of the row by which it was made
    head    text[],                    -- names and values of the answer's headers, in turn; NULL: there is no answer yet
    read_at timestamptz                -- when it was last seen to have a reader, where that decides about its end
) WITH (fillfactor = 70);

CREATE TABLE run_gateway.recording_keys (
    key      bytea PRIMARY KEY,        -- a digest of tenant, row, credential and key
    stream   bigint NOT NULL,          -- the newest recording of this key; 0 while its claim is being made
    previous bigint                    -- the one before it, should nothing come of this one
) WITH (fillfactor = 70);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['recordings', 'recording_keys'] LOOP
        EXECUTE format(
            'CREATE TRIGGER be_durable BEFORE INSERT OR UPDATE OR DELETE ON run_gateway.%I FOR EACH STATEMENT'
            ' WHEN (current_setting(''synchronous_commit'') = ''off'') EXECUTE FUNCTION run_gateway.be_durable()', name);
    END LOOP;
END
$$;

-- What marks of clients' credentials are made with. None of these is for others whom default privileges may have let in.
CREATE TABLE run_gateway.recording_secret (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    secret bytea NOT NULL
);
INSERT INTO run_gateway.recording_secret (secret)
VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

DO $$
DECLARE
    holder oid;
BEGIN
    FOR holder IN SELECT DISTINCT a.grantee FROM pg_class c, aclexplode(c.relacl) a
                   WHERE c.oid = 'run_gateway.recording_secret'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON run_gateway.recording_secret FROM %s',
                       CASE holder WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(holder)) END);
    END LOOP;
END
$$;
