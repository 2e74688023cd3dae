-- Nothing is acknowledged, nor shown to a reader, that a crash may lose: a transaction that changes what clients are
-- told about is flushed before its commit is reported, also where the role, the database or the server say
-- synchronous_commit = off. Whatever else they say stays as it is: each other value flushes here.

CREATE FUNCTION run_gateway.be_durable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'on', true);
    RETURN NULL;
END
$$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['streams', 'runs', 'subscriptions', 'subscription_links', 'subscription_keys'] LOOP
        EXECUTE format(
            'CREATE TRIGGER be_durable BEFORE INSERT OR UPDATE OR DELETE ON run_gateway.%I FOR EACH STATEMENT'
            ' WHEN (current_setting(''synchronous_commit'') = ''off'') EXECUTE FUNCTION run_gateway.be_durable()', name);
    END LOOP;
END
$$;
