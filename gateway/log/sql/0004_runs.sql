-- Runs: streams at runs/<id> have a record, may have a lease, and have a control stream at runs/<id>/control.

CREATE TABLE run_gateway.runs (
    stream        bigint PRIMARY KEY,                  -- goes up with time, so it is the order of lists as well
    tenant        text COLLATE "C" NOT NULL DEFAULT '',
    id            text COLLATE "C" NOT NULL,
    request       bytea,                               -- digest of the POST that made it: its retry is a success
    workflow_name text COLLATE "C",
    status        text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'completed', 'errored')),
    started_at    timestamptz NOT NULL,
    input         json,                                -- json, not jsonb: as it was written
    ended_at      timestamptz,
    is_error      boolean,
    result        json,
    error         json,
    metadata      jsonb,                               -- strings by name
    cancel_requested_at timestamptz,
    lost_event    json                                 -- the last event, should its producer be lost; NULL: a run_end
);

-- One for each filter of GET /runs, each in the order of its pages.
CREATE INDEX runs_newest ON run_gateway.runs (tenant, stream);
CREATE INDEX runs_status ON run_gateway.runs (tenant, status, stream);
CREATE INDEX runs_workflow_name ON run_gateway.runs (tenant, workflow_name, stream) WHERE workflow_name IS NOT NULL;
CREATE INDEX runs_metadata ON run_gateway.runs USING gin (metadata jsonb_path_ops) WHERE metadata IS NOT NULL;

-- Every append updates its stream's row anyway: what a sign of life moves stands there, in no index.
ALTER TABLE run_gateway.streams
    ADD COLUMN lease            integer,               -- seconds
    ADD COLUMN lease_until      timestamptz,           -- slides with each append
    ADD COLUMN lost             boolean NOT NULL DEFAULT false,   -- closed because its lease ran out
    ADD COLUMN cancel_requested boolean NOT NULL DEFAULT false;

-- When to look at a lease next. Moved only when that time has come, to where the stream's row says it is by then: an
-- append touches no index.
CREATE TABLE run_gateway.leases (
    stream   bigint PRIMARY KEY,
    check_at timestamptz NOT NULL
);
CREATE INDEX leases_check_at ON run_gateway.leases (check_at);

-- When some Machine last looked. It means nothing after a crash, so it need not survive one.
CREATE UNLOGGED TABLE run_gateway.lease_looks (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    at  timestamptz NOT NULL
) WITH (fillfactor = 10);

-- Streams that were runs before there were records. When those that are closed ended, nobody knows.
INSERT INTO run_gateway.runs (stream, tenant, id, status, started_at)
SELECT s.id, CASE WHEN strpos(s.path, E'\x1f') > 0 THEN split_part(s.path, E'\x1f', 1) ELSE '' END,
       substring(s.path FROM '[^/]+$'), CASE WHEN s.closed THEN 'completed' ELSE 'active' END, s.created_at
  FROM run_gateway.streams s WHERE s.path ~ E'^([^\x1f]*\x1f)?runs/[^/]+$' AND NOT s.gone;
