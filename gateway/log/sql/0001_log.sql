-- The event log: streams, their events, their producers. Time that decides is the database's.

CREATE TABLE run_gateway.streams (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    path             text COLLATE "C" UNIQUE,          -- NULL: removed; its events wait to be purged
    content_type     text    NOT NULL,                 -- as the creator wrote it, echoed exactly
    media_type       text    NOT NULL,                 -- lower case, without parameters: what is compared
    tail             bigint  NOT NULL DEFAULT 0,       -- the last event's number = how many there are
    closed           boolean NOT NULL DEFAULT false,
    gone             boolean NOT NULL DEFAULT false,   -- soft-deleted (§4.2): kept for its forks alone
    forks            integer NOT NULL DEFAULT 0,       -- how many streams inherit from this one
    ttl              bigint,                           -- seconds; expires_at slides with each read and write
    expires_at       timestamptz,
    expires_header   text,                             -- Stream-Expires-At as given, echoed exactly
    stream_seq       text COLLATE "C",                 -- the last Stream-Seq, compared bytewise
    closing_producer text,                             -- the request that closed it: its retry is a success
    closing_epoch    bigint,
    closing_seq      bigint,
    forked_from      text,                             -- what the creator of a fork asked for
    fork_anchor      bigint,
    fork_sub_offset  bigint  NOT NULL DEFAULT 0,
    fork_source      bigint,                           -- the stream whose `forks` counts this one
    lineage          bigint[] NOT NULL DEFAULT '{}',   -- inherited events: those up to lineage_ends[i] that no
    lineage_ends     bigint[] NOT NULL DEFAULT '{}',   -- earlier entry covers are rows of stream lineage[i]
    created_at       timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);                              -- every append updates its row: leave room for HOT

CREATE INDEX streams_expiring ON run_gateway.streams (expires_at) WHERE expires_at IS NOT NULL AND path IS NOT NULL;
CREATE INDEX streams_removed ON run_gateway.streams (id) WHERE path IS NULL;

CREATE TABLE run_gateway.events (
    stream bigint NOT NULL,      -- no foreign key: its check would cost every insert; removal is ours alone
    seq    bigint NOT NULL,      -- 1, 2, 3, … in the order of commit, given under the stream's row lock
    data   bytea  NOT NULL,      -- one JSON message, or the bytes of one append
    PRIMARY KEY (stream, seq)
);

CREATE TABLE run_gateway.producers (
    stream   bigint NOT NULL,
    producer text COLLATE "C" NOT NULL,
    epoch    bigint NOT NULL,
    seq      bigint NOT NULL,
    PRIMARY KEY (stream, producer)
) WITH (fillfactor = 50);
