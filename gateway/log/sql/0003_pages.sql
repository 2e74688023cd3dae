-- Events that nobody appends to any more, many in one row: compressed, and read without work for each of them.

CREATE TABLE run_gateway.pages (
    stream  bigint    NOT NULL,  -- no foreign key, as for events
    last    bigint    NOT NULL,  -- the last event's number: the page that holds n is the first one with last >= n
    first   bigint    NOT NULL,
    body    bytea     NOT NULL,  -- the events as they travel: JSON messages joined by commas, or plain bytes
    lengths integer[] NOT NULL,  -- the bytes of each, without the commas
    PRIMARY KEY (stream, last)
);

DO $$
BEGIN
    ALTER TABLE run_gateway.pages ALTER COLUMN body SET COMPRESSION lz4, ALTER COLUMN lengths SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;  -- a server that was built without it has pglz: somewhat slower, about as small
END
$$;

-- Appends change none of these, so their updates stay HOT; closing does, once.
ALTER TABLE run_gateway.streams
    ADD COLUMN closed_at timestamptz,                    -- when a retention begins to count; NULL while open
    ADD COLUMN packed    boolean NOT NULL DEFAULT false; -- closed, and all its events are in pages
UPDATE run_gateway.streams SET closed_at = now() WHERE closed;

CREATE INDEX streams_unpacked ON run_gateway.streams (id) WHERE NOT packed AND path IS NOT NULL;
CREATE INDEX streams_closed ON run_gateway.streams (closed_at)
    WHERE closed_at IS NOT NULL AND path IS NOT NULL AND NOT gone;

-- Rows come and go now: a fifth of a large table is too much to be dead before anybody cleans up.
ALTER TABLE run_gateway.events SET (autovacuum_vacuum_scale_factor = 0.05);

-- Who packs, removes and purges, and until when nobody else does. An advisory lock would end with each transaction,
-- and one of a session does not survive a pooler.
CREATE TABLE run_gateway.housekeeping (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    machine text,
    until   timestamptz NOT NULL
);
INSERT INTO run_gateway.housekeeping (until) VALUES (now());
