-- A recording of a conversation that has an owner (run_gateway.owned) is gone on with by the owner alone.

ALTER TABLE run_gateway.recordings ADD COLUMN conversation bytea;  -- its key there; NULL: anybody may
CREATE INDEX recordings_of_conversations ON run_gateway.recordings (conversation) WHERE conversation IS NOT NULL;
