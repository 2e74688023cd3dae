-- Which Machine owns a conversation of the application behind the gateway (gateway/owner). An ownership belongs to a *life*: of
-- one gateway together with one process of its application. A life that has ended owns nothing, and none comes back.

CREATE TABLE run_gateway.owner_lives (
    life     bigint PRIMARY KEY,            -- by chance: never one that a server had which lost its last transactions
    machine  uuid   NOT NULL,               -- whose workers share the life
    address  text   NOT NULL,               -- where other gateways reach it
    fly      text,                          -- what Fly calls the Machine
    app      text   NOT NULL,               -- the process of its application
    beats    bigint NOT NULL DEFAULT 0,     -- a sign of life each: others count for how long there was none
    draining boolean NOT NULL DEFAULT false,
    begun_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at  timestamptz NOT NULL DEFAULT clock_timestamp(),  -- for people: no decision is taken by a wall clock
    ended_at timestamptz,
    heir     bigint,                        -- the life that settles what an ended one has left
    settled_at timestamptz
) WITH (fillfactor = 50);
CREATE INDEX owner_lives_unsettled ON run_gateway.owner_lives (life) WHERE settled_at IS NULL;
CREATE UNIQUE INDEX owner_lives_of_a_machine ON run_gateway.owner_lives (machine) WHERE ended_at IS NULL;

CREATE TABLE run_gateway.owned (
    key      bytea  PRIMARY KEY,            -- a digest of the three below
    tenant   text   NOT NULL,
    row_name text   NOT NULL,
    id       bytea  NOT NULL,               -- as the application decodes it
    life     bigint NOT NULL,               -- no foreign key: a life that is not there has ended
    epoch    bigint NOT NULL,               -- goes up with each owner of a key, also over a time without one
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX owned_by_life ON run_gateway.owned (life);
CREATE SEQUENCE run_gateway.owner_epochs;

CREATE TRIGGER be_durable BEFORE INSERT OR UPDATE OR DELETE ON run_gateway.owned FOR EACH STATEMENT
 WHEN (current_setting('synchronous_commit') = 'off') EXECUTE FUNCTION run_gateway.be_durable();
CREATE TRIGGER be_durable BEFORE INSERT OR UPDATE OF ended_at OR DELETE ON run_gateway.owner_lives FOR EACH STATEMENT
 WHEN (current_setting('synchronous_commit') = 'off') EXECUTE FUNCTION run_gateway.be_durable();
