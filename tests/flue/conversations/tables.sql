-- What readers need of the tables of Flue 2.x.

CREATE TABLE flue_conversation_streams (
    path text PRIMARY KEY, identity_json text NOT NULL DEFAULT '', next_offset bigint NOT NULL DEFAULT 0,
    producer_id text, producer_epoch bigint NOT NULL DEFAULT 0, next_producer_sequence bigint NOT NULL DEFAULT 0,
    incarnation text NOT NULL);
CREATE TABLE flue_conversation_stream_batches (
    path text NOT NULL, seq bigint NOT NULL, producer_id text NOT NULL DEFAULT '', producer_epoch bigint NOT NULL DEFAULT 0,
    producer_sequence bigint NOT NULL DEFAULT 0, data text NOT NULL, submission_id text, attempt_id text,
    PRIMARY KEY (path, seq));
CREATE TABLE flue_conversation_fold_checkpoints (
    path text PRIMARY KEY, head_offset text NOT NULL, incarnation text NOT NULL, format_version bigint NOT NULL,
    data text NOT NULL);
