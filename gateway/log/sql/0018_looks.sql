-- How many looks at leases there have been: by these, and not by time, it is counted how long a lease was put off by breaks.
-- The row outlives a crash and a promotion from now on, for whose length it tells that nobody could be heard.
ALTER TABLE run_gateway.lease_looks SET LOGGED;
ALTER TABLE run_gateway.lease_looks ADD COLUMN looks bigint NOT NULL DEFAULT 0;

-- The end of a lease that has passed unheard, and how many looks there had been when that was seen; NULL: none.
ALTER TABLE run_gateway.leases ADD COLUMN missed timestamptz, ADD COLUMN looks bigint;

-- As for leases: how many looks there had been when this number of events was first seen.
ALTER TABLE run_gateway.flue_silence ADD COLUMN looks bigint;

-- A row is seen by its own transaction alone, so it need not survive anything. By the transaction first: however many
-- versions an open snapshot keeps of a stream's, a new one is not among them.
ALTER TABLE run_gateway.under_way SET UNLOGGED;
ALTER TABLE run_gateway.under_way ADD COLUMN transaction xid8 NOT NULL DEFAULT pg_current_xact_id();
ALTER TABLE run_gateway.under_way DROP CONSTRAINT under_way_pkey, ADD PRIMARY KEY (transaction, stream);
