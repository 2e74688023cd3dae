-- The table of @flue/postgres 2.0.3 (format version 1) that says what is to be done.

CREATE TABLE flue_meta (key text PRIMARY KEY, value text NOT NULL);
INSERT INTO flue_meta VALUES ('format_version', '1');

CREATE TABLE flue_agent_submissions (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, submission_id text NOT NULL UNIQUE, session_key text NOT NULL,
    kind text NOT NULL, payload text NOT NULL, status text NOT NULL, accepted_at bigint NOT NULL, canonical_ready_at bigint,
    attempt_id text, input_applied_at bigint, abort_requested_at bigint, started_at bigint, joined_into text, settled_at bigint,
    error text, attempt_count integer NOT NULL DEFAULT 0, max_attempts integer NOT NULL DEFAULT 10,
    timeout_at bigint NOT NULL DEFAULT 0, owner_id text, lease_expires_at bigint NOT NULL DEFAULT 0,
    settlement_record_id text, settlement_record text
);
CREATE INDEX flue_agent_submissions_status_sequence_idx ON flue_agent_submissions (status, sequence);
CREATE INDEX flue_agent_submissions_session_status_sequence_idx
    ON flue_agent_submissions (session_key, status, sequence);
