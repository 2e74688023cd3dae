-- How long a Flue app's active runs have been silent: its own tables say of no event when it came.

CREATE TABLE run_gateway.flue_silence (
    run_id text COLLATE "C" PRIMARY KEY,
    tail   bigint      NOT NULL,   -- how many events there were when somebody looked; -1: there was no stream
    since  timestamptz NOT NULL    -- when that number was first seen, by the database's clock
);
