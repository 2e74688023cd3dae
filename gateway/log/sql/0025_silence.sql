-- Which transactions lie behind a silence: whatever was written by one before `quiet_before` has rested since then. Appends
-- write no time for it, since each row of a table tells its transaction anyway.
ALTER TABLE run_gateway.housekeeping
    ADD COLUMN quiet_before xid8,         -- NULL: nobody has kept house for long enough
    ADD COLUMN quiet_next   xid8,         -- the transaction of `quiet_since`, which is `quiet_before` one silence later
    ADD COLUMN quiet_since  timestamptz;
COMMENT ON COLUMN run_gateway.streams.packed IS
    'all of its own events are in pages, and it is closed or silent: an append to it says otherwise';
