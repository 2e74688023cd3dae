-- The tables of @flue/postgres 1.0.0-beta.9, schema version 4: those that hold runs and their events.

CREATE TABLE flue_meta (key text PRIMARY KEY, value text NOT NULL);
INSERT INTO flue_meta VALUES ('schema_version', '4');

CREATE TABLE flue_runs (
    run_id text PRIMARY KEY, workflow_name text NOT NULL, status text NOT NULL, started_at text NOT NULL, payload text,
    traceparent text, tracestate text, ended_at text, is_error boolean, duration_ms integer, result text, error text
);
CREATE INDEX flue_runs_status_started_idx ON flue_runs (status, started_at DESC, run_id DESC);

CREATE TABLE flue_event_streams (
    path text PRIMARY KEY, next_offset bigint NOT NULL DEFAULT 0, closed boolean NOT NULL DEFAULT false
);

CREATE TABLE flue_event_stream_entries (
    path text NOT NULL, seq bigint NOT NULL, data text NOT NULL, event_key text, PRIMARY KEY (path, seq)
);
CREATE UNIQUE INDEX flue_event_stream_entries_path_event_key_idx
    ON flue_event_stream_entries (path, event_key) WHERE event_key IS NOT NULL;
