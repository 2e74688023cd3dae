-- For how long a Machine believes in its life after a beat, so that no other counts less silence, whatever its own setting is.
ALTER TABLE run_gateway.owner_lives ADD COLUMN lease double precision;  -- seconds; NULL: before the first beat
