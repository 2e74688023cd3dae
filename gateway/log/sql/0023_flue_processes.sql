-- What a Flue 2.x app's process calls itself in Flue's own tables, by the life of gateway/owner to which it belongs: so it is known
-- which Machine runs a conversation (gateway/owner/flue).

CREATE TABLE run_gateway.flue_processes (
    life  bigint PRIMARY KEY,
    owner text   NOT NULL
);
CREATE INDEX flue_processes_by_owner ON run_gateway.flue_processes (owner);
