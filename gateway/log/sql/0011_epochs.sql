-- Which server the log is on, and was on before: see functions/epochs.sql.

CREATE TABLE run_gateway.server (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch       bigint  NOT NULL DEFAULT 0,
    earlier     bigint[] NOT NULL DEFAULT '{}',     -- epochs that this log went through before
    incarnation uuid    NOT NULL DEFAULT gen_random_uuid(),  -- two servers that go on from one log have one each
    postmaster  timestamptz,                        -- when the server that was asked last had started; NULL: none yet
    system      bigint,                             -- its system identifier and timeline; NULL: it does not say
    timeline    text,
    since       timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO run_gateway.server DEFAULT VALUES;

ALTER TABLE run_gateway.streams
    ADD COLUMN served timestamptz,                  -- when the server that its last event was written on had started
    ADD COLUMN breaks bigint[];                     -- where a later epoch begins: the epoch, and the events before it
