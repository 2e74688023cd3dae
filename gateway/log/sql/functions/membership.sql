-- Which streams a subscription is linked to. A stream is linked in the very transaction that makes it, whichever Machine
-- does it: to all subscriptions that this transaction sees. A subscription that is new is linked to the streams that are
-- there, in steps; and to those that transactions which did not see it were making, when these have ended. Nobody waits
-- for anybody: each maker of a stream holds a lock, shared by all of its tenant, by which it can be told that it is one.
--
-- Who makes a stream locks links of one path, of all subscriptions; who changes a subscription locks its links, of many
-- paths. Two of each could wait in a circle: so the latter step back after half a second, and are tried again.


-- Tenants are namespaces (protocol/target.py): stored paths and ids are tenant, U+001F, name; the default's are bare.
CREATE OR REPLACE FUNCTION run_gateway.tenant_of(stored text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN substr(stored, 1, greatest(strpos(stored, chr(31)) - 1, 0));

CREATE OR REPLACE FUNCTION run_gateway.without_tenant(stored text) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN substr(stored, strpos(stored, chr(31)) + 1);


-- Whether the pattern takes the path, which has to be the same tenant's. Its own wake stream it never takes: every wake
-- would call for the next.
CREATE OR REPLACE FUNCTION run_gateway.covers(s run_gateway.subscriptions, path text) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN s.pattern IS NULL OR path = s.wake_stream OR run_gateway.tenant_of(path) <> run_gateway.tenant_of(s.id)
                 THEN false
            WHEN starts_with(ltrim(run_gateway.without_tenant(path), '/'), split_part(s.pattern_head, '/', 1))
                 THEN ('/' || run_gateway.without_tenant(path)) ~ s.pattern_regex
            ELSE false END;


-- What the heads of patterns that take a path can be: its first segments, from none on (subscriptions/glob.py).
CREATE OR REPLACE FUNCTION run_gateway.heads_of(stored text) RETURNS text[]
LANGUAGE sql IMMUTABLE
RETURN (SELECT array_agg(array_to_string(p.parts[1:n], '/'))
          FROM (SELECT array_remove(string_to_array(run_gateway.without_tenant(stored), '/'), '') AS parts) p,
               generate_series(0, least(cardinality(p.parts), 8)) n);


CREATE OR REPLACE FUNCTION run_gateway.link_stream() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    whose text := run_gateway.tenant_of(NEW.path);
    heads text[] := run_gateway.heads_of(NEW.path);
BEGIN
    PERFORM pg_advisory_xact_lock_shared(1920298605, hashtext(whose));   -- a number of our own: "rusm"
    UPDATE run_gateway.subscription_links l SET stream = NEW.id WHERE l.path = NEW.path AND l.stream IS NULL;
    INSERT INTO run_gateway.subscription_links AS l (subscription, path, stream, acked, explicit, glob, settled)
    SELECT (c.s).number, NEW.path, NEW.id, -1, false, true, false
      FROM (SELECT s FROM run_gateway.subscriptions s
             WHERE s.tenant = whose AND s.pattern_head = ANY (heads) OFFSET 0) c   -- before any expression is compiled
     WHERE run_gateway.covers(c.s, NEW.path) ORDER BY (c.s).number
    ON CONFLICT (subscription, path) DO UPDATE      -- an explicit link, or what is left of an earlier stream
       SET glob = true, stream = NEW.id, settled = false,
           explicit = l.explicit AND coalesce(l.stream = NEW.id, true),
           acked = CASE WHEN l.stream <> NEW.id THEN -1 ELSE l.acked END;
    RETURN NULL;
END
$$;

-- Not replaced, for that would need the table for itself at each deploy.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = 'run_gateway.streams'::regclass AND t.tgname = 'link_stream') THEN
        CREATE TRIGGER link_stream AFTER INSERT ON run_gateway.streams
        FOR EACH ROW EXECUTE FUNCTION run_gateway.link_stream();
    END IF;
END
$$;


-- The transactions that are making streams of a tenant at this moment. One that is not among them has ended, so that its
-- streams are seen, or sees in its turn what has been committed before.
CREATE OR REPLACE FUNCTION run_gateway.makers(whose text) RETURNS text[]
LANGUAGE sql
RETURN (SELECT coalesce(array_agg(l.virtualtransaction), '{}') FROM pg_locks l
         WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = 1920298605
           AND l.objid = (hashtext(whose)::bigint & 4294967295)::oid
           AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()));


-- Has all Machines ask what is subscribed to. Last of all: others who change it wait for the end of this transaction.
CREATE OR REPLACE FUNCTION run_gateway.subscriptions_changed() RETURNS void
LANGUAGE sql BEGIN ATOMIC
    UPDATE run_gateway.subscription_changes SET version = version + 1;
END;


-- §6.2: creates a subscription or confirms it; `link_next` links it. `verdict`: created, confirmed, conflict; too_many,
-- when the tenant has `most` already; wake_stream_type, wake_stream_closed, wake_stream_gone for what takes no wake.
CREATE OR REPLACE FUNCTION run_gateway.begin_subscription(
    new_id text, new_type text, new_pattern text, new_head text, new_regex text, paths text[], new_url text,
    new_wake_stream text, new_lease_ttl interval, new_description text, new_hash text, most integer,
    OUT verdict text, OUT number bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    LOOP
        SELECT * INTO s FROM run_gateway.subscriptions v WHERE v.id = new_id;
        IF FOUND THEN
            verdict := CASE WHEN s.config_hash = new_hash THEN 'confirmed' ELSE 'conflict' END;
            number := s.number;
            RETURN;
        END IF;
        IF most <= (SELECT count(*) FROM (SELECT FROM run_gateway.subscriptions v
                                           WHERE v.tenant = run_gateway.tenant_of(new_id) LIMIT most) n) THEN
            verdict := 'too_many';
            RETURN;
        END IF;
        IF new_type = 'pull-wake' THEN
            SELECT CASE WHEN t.gone THEN 'wake_stream_gone' WHEN NOT run_gateway.live(t) THEN NULL
                        WHEN t.media_type <> 'application/json' THEN 'wake_stream_type'
                        WHEN t.closed THEN 'wake_stream_closed' END
              INTO verdict FROM run_gateway.streams t WHERE t.path = new_wake_stream;
            IF verdict IS NOT NULL THEN
                RETURN;
            END IF;
        END IF;
        INSERT INTO run_gateway.subscriptions (
            id, type, pattern, pattern_head, pattern_regex, webhook_url, wake_stream, lease_ttl, description, config_hash,
            linking, noted)
        VALUES (new_id, new_type, new_pattern, new_head, new_regex, new_url, new_wake_stream, new_lease_ttl,
                new_description, new_hash, CASE WHEN new_pattern IS NOT NULL THEN '1' END, false)
        ON CONFLICT (id) DO NOTHING RETURNING * INTO s;
        EXIT WHEN FOUND;   -- else another session made it at this moment
    END LOOP;
    PERFORM run_gateway.link_explicitly(s, paths);
    PERFORM run_gateway.subscriptions_changed();
    verdict := 'created';
    number := s.number;
END
$$;


-- Links existing streams by the pattern: of the next `most` paths those that it takes, at their present tail, since
-- history is not replayed; in the second pass (see `link_next`) from their beginning. `at` is how far it has come: the
-- range, a digit, and the last path. Returns how far it is then; NULL at the end of the pass. `most` NULL: all.
CREATE OR REPLACE FUNCTION run_gateway.link_range(s run_gateway.subscriptions, at text, most integer) RETURNS text
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    step  integer := left(at, 1)::integer;
    after text := substr(at, 2);
    root  text := CASE WHEN s.tenant = '' THEN '' ELSE s.tenant || chr(31) END;
    head  text := split_part(s.pattern_head, '/', 1);
    low   text;
    high  text;
    paths text[];
BEGIN
    -- A pattern that begins literally takes paths that begin so, or with slashes, which count for nothing (1 and 4).
    low := CASE WHEN head = '' THEN root WHEN step IN (1, 4) THEN root || '/' ELSE root || head END;
    high := CASE WHEN head <> '' AND step IN (1, 4) THEN root || '0' ELSE low || chr(1114111) END;
    SELECT array_agg(x.path) INTO paths FROM (
        SELECT t.path FROM run_gateway.streams t WHERE t.path > after AND t.path >= low AND t.path < high
         ORDER BY t.path LIMIT most) x;
    INSERT INTO run_gateway.subscription_links AS l (subscription, path, stream, acked, explicit, glob, settled)
    SELECT s.number, t.path, t.id, CASE WHEN step < 3 THEN t.tail ELSE -1 END, false, true, step < 3 AND t.closed
      FROM unnest(paths) AS p(path) JOIN run_gateway.streams t ON t.path = p.path
     WHERE run_gateway.covers(s, t.path) AND NOT t.gone AND run_gateway.live(t) ORDER BY t.path
    ON CONFLICT (subscription, path) DO UPDATE
       SET glob = true, stream = excluded.stream,
           explicit = l.explicit AND coalesce(l.stream = excluded.stream, true),
           acked = CASE WHEN l.stream <> excluded.stream THEN excluded.acked ELSE l.acked END,
           settled = CASE WHEN l.stream = excluded.stream THEN l.settled ELSE excluded.settled END
     WHERE l.stream IS NULL OR l.stream < excluded.stream OR (l.stream = excluded.stream AND NOT l.glob);
    RETURN CASE WHEN cardinality(paths) = most THEN step || paths[most]
                WHEN step IN (1, 4) AND head <> '' THEN (step + 1)::text END;
END
$$;


-- One step in linking a subscription. `more`: another one is to follow; `waits`: what is there is linked, and what is
-- being made will be; `done`. Two passes, ranges 1 and 2, 4 and 5: what transactions were making that saw no such
-- subscription is found after they have ended. In between (3) they are waited for: the caller asks again.
CREATE OR REPLACE FUNCTION run_gateway.link_next(wanted bigint, most integer) RETURNS text
LANGUAGE plpgsql
SET lock_timeout = '500ms'
AS $$
DECLARE
    s    run_gateway.subscriptions;
    next text;
BEGIN
    SELECT * INTO s FROM run_gateway.subscriptions v WHERE v.number = wanted FOR NO KEY UPDATE;
    IF NOT FOUND OR (s.noted AND s.linking IS NULL AND s.makers IS NULL) THEN
        RETURN 'done';
    END IF;
    IF NOT s.noted THEN
        s.makers := nullif(coalesce(s.makers, '{}') || run_gateway.makers(s.tenant), '{}');
        PERFORM run_gateway.tie_links(s);
    ELSIF s.makers IS NOT NULL AND NOT s.makers && run_gateway.makers(s.tenant) THEN
        s.makers := NULL;
        PERFORM run_gateway.tie_links(s);
    END IF;
    IF s.linking = '3' THEN
        s.linking := CASE WHEN s.makers IS NULL THEN '4' ELSE '3' END;
    ELSIF s.linking IS NOT NULL THEN
        next := run_gateway.link_range(s, s.linking, most);
        s.linking := CASE WHEN next IS NULL AND s.linking < '3' AND s.makers IS NOT NULL THEN '3' ELSE next END;
    END IF;
    UPDATE run_gateway.subscriptions v SET noted = true, makers = s.makers, linking = s.linking WHERE v.number = wanted;
    RETURN CASE WHEN s.linking IS NULL AND s.makers IS NULL THEN 'done'
                WHEN s.linking IS NULL OR s.linking = '3' THEN 'waits' ELSE 'more' END;
END
$$;


-- Ties explicit links to streams that were made by transactions which did not see the link.
CREATE OR REPLACE FUNCTION run_gateway.tie_links(s run_gateway.subscriptions) RETURNS void
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    UPDATE run_gateway.subscription_links l SET stream = t.id, glob = run_gateway.covers(s, l.path)
      FROM run_gateway.streams t
     WHERE l.subscription = s.number AND l.stream IS NULL AND t.path = l.path AND NOT t.gone AND run_gateway.live(t);
END
$$;


-- Links at the present tail what is not linked yet (§6.4).
CREATE OR REPLACE FUNCTION run_gateway.link_explicitly(s run_gateway.subscriptions, paths text[]) RETURNS void
LANGUAGE sql BEGIN ATOMIC
    INSERT INTO run_gateway.subscription_links AS l (subscription, path, stream, acked, explicit, glob, settled)
    SELECT DISTINCT s.number, p.path, t.id, coalesce(t.tail, 0), true,
           t.id IS NOT NULL AND run_gateway.covers(s, p.path), coalesce(t.closed, false)
      FROM unnest(paths) AS p(path)
      LEFT JOIN run_gateway.streams t ON t.path = p.path AND NOT t.gone AND run_gateway.live(t)
    ON CONFLICT (subscription, path) DO UPDATE
       SET explicit = true, stream = excluded.stream,
           glob = CASE WHEN l.stream IS NOT DISTINCT FROM excluded.stream THEN l.glob ELSE excluded.glob END,
           acked = CASE WHEN l.stream IS NOT DISTINCT FROM excluded.stream THEN l.acked ELSE excluded.acked END,
           settled = CASE WHEN l.stream IS NOT DISTINCT FROM excluded.stream THEN l.settled ELSE excluded.settled END
     WHERE l.stream IS NULL OR excluded.stream IS NULL OR l.stream <= excluded.stream;
END;


-- `verdict`: added; not_found; too_many, when it would have more than `most` explicit links. `link_next` sees to the rest.
CREATE OR REPLACE FUNCTION run_gateway.add_explicit_streams(
    wanted text, paths text[], most integer, OUT verdict text, OUT number bigint
)
LANGUAGE plpgsql
SET lock_timeout = '500ms'
AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    SELECT * INTO s FROM run_gateway.subscriptions v WHERE v.id = wanted FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        verdict := 'not_found';
    ELSIF (SELECT count(*) FROM (SELECT l.path FROM run_gateway.subscription_links l
                                  WHERE l.subscription = s.number AND l.explicit UNION SELECT unnest(paths)) u) > most THEN
        verdict := 'too_many';
    ELSE
        PERFORM run_gateway.link_explicitly(s, paths);
        UPDATE run_gateway.subscriptions v SET noted = false WHERE v.number = s.number;
        PERFORM run_gateway.subscriptions_changed();
        verdict := 'added';
        number := s.number;
    END IF;
END
$$;


-- Takes the explicit link away; a glob link stays (§6.4).
CREATE OR REPLACE FUNCTION run_gateway.remove_subscription_stream(wanted text, doomed text) RETURNS boolean
LANGUAGE plpgsql
SET lock_timeout = '500ms'
AS $$
DECLARE
    s run_gateway.subscriptions;
BEGIN
    SELECT * INTO s FROM run_gateway.subscriptions v WHERE v.id = wanted FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM run_gateway.subscription_links l WHERE l.subscription = s.number AND l.path = doomed AND NOT l.glob;
    UPDATE run_gateway.subscription_links l SET explicit = false WHERE l.subscription = s.number AND l.path = doomed;
    PERFORM run_gateway.subscriptions_changed();
    RETURN true;
END
$$;


-- What is in flight for it finds nothing any more, and can move no cursor (§6.3). Its links are tidied away.
CREATE OR REPLACE FUNCTION run_gateway.delete_subscription(doomed text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM run_gateway.subscriptions v WHERE v.id = doomed;
    IF FOUND THEN
        PERFORM run_gateway.subscriptions_changed();
    END IF;
END
$$;
