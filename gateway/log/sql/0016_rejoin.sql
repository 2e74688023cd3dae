-- Recordings that another Machine can go on with, after the one that makes them has died.

ALTER TABLE run_gateway.recordings
    ADD COLUMN rejoin     json,                          -- how the upstream is asked for the rest; NULL: nobody can
    ADD COLUMN cancels    boolean NOT NULL DEFAULT false, -- whether it is stopped when nobody reads it
    ADD COLUMN generation integer NOT NULL DEFAULT 0,    -- how often it has been taken over
    ADD COLUMN offered_at timestamptz;                   -- since when it is there to be taken over
CREATE INDEX recordings_offered ON run_gateway.recordings (offered_at) WHERE offered_at IS NOT NULL;
