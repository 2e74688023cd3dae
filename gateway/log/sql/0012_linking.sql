-- Subscriptions are linked to streams without a lock that anybody waits for. Until now one lock, for all tenants, did it:
-- transactions that hold it are waited for here, so that none is half-way when the functions change.
LOCK TABLE run_gateway.streams IN SHARE ROW EXCLUSIVE MODE;

ALTER TABLE run_gateway.subscriptions
    ADD COLUMN tenant     text COLLATE "C" GENERATED ALWAYS AS (substr(id, 1, greatest(strpos(id, chr(31)) - 1, 0))) STORED,
    ADD COLUMN linking    text COLLATE "C",               -- how far existing streams are linked; NULL: all of them are
    ADD COLUMN noted      boolean NOT NULL DEFAULT true,  -- whether `makers` is as of a time when others saw it
    ADD COLUMN makers     text[],                         -- transactions that were making streams then, and saw it not
    ADD COLUMN told       bigint,                         -- the stream that the pull-wake in flight was written to
    ADD COLUMN wake_error text;                           -- why the last pull-wake could not be written

-- A stream's candidates, and how many subscriptions a tenant has.
CREATE INDEX subscriptions_candidates ON run_gateway.subscriptions (tenant, pattern_head);

-- Explicit links that wait for their streams.
CREATE INDEX subscription_links_waiting ON run_gateway.subscription_links (subscription) WHERE stream IS NULL;
