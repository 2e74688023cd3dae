-- Subscriptions (§6, §7): durable cursors that wake workers. Every change of state is one function, so one short
-- transaction, made under the subscription's row lock; time is the database's. Appends write nothing here: pending
-- work is where a stream's tail lies beyond the link's acked position.

CREATE TABLE run_gateway.subscriptions (
    number          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- never used again, unlike an id
    id              text COLLATE "C" NOT NULL UNIQUE,
    type            text        NOT NULL CHECK (type IN ('webhook', 'pull-wake')),
    pattern         text,
    pattern_head    text,                              -- the first segment, when it is literal: a cheap first test
    pattern_regex   text,                              -- matches '/' || path
    webhook_url     text,
    wake_stream     text,
    lease_ttl       interval    NOT NULL,
    description     text,
    config_hash     text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    generation      bigint      NOT NULL DEFAULT 0,
    wake_id         text,                              -- NULL: idle
    holder          text,                              -- the worker that claimed a pull-wake
    lease_until     timestamptz,                       -- NULL: a pull-wake that nobody has claimed yet
    next_attempt_at timestamptz,                       -- a webhook's next delivery; while one is under way: when it
                                                       -- counts as lost. NULL: delivered
    retry_count     integer     NOT NULL DEFAULT 0     -- failed deliveries in a row
) WITH (fillfactor = 50);                              -- no index on what changes: updates stay HOT

CREATE TABLE run_gateway.subscription_links (
    subscription bigint  NOT NULL,       -- no foreign key: deleting must not wait for those who create streams
    path         text COLLATE "C" NOT NULL,
    stream       bigint,                 -- NULL: an explicit link that waits for its stream. A link whose stream is
                                         -- no longer live is none, and is tidied away later
    acked        bigint  NOT NULL,       -- last processed, inclusive; -1 before the first
    explicit     boolean NOT NULL,
    glob         boolean NOT NULL,
    settled      boolean NOT NULL,       -- closed and acked to its end: never pending again, so never looked at
    PRIMARY KEY (subscription, path)
);

CREATE INDEX subscription_links_open ON run_gateway.subscription_links (subscription, path) WHERE NOT settled;
CREATE INDEX subscription_links_path ON run_gateway.subscription_links (path);
CREATE INDEX subscription_links_explicit ON run_gateway.subscription_links (path) WHERE explicit;

-- What all Machines sign with. Several 'sign' keys are all published, and the last one signs (§6.5).
CREATE TABLE run_gateway.subscription_keys (
    purpose text  NOT NULL CHECK (purpose IN ('sign', 'token')),
    number  integer NOT NULL,
    secret  bytea NOT NULL,
    PRIMARY KEY (purpose, number)
);

-- Goes up with every change of what is subscribed to, so that a Machine sees cheaply whether it knows the latest.
CREATE TABLE run_gateway.subscription_changes (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL
);
INSERT INTO run_gateway.subscription_changes (version) VALUES (1);
