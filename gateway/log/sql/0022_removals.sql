-- One index of removed runs in the place of three: every removal writes it, whether or not anybody looks at a list.
ALTER TABLE run_gateway.removed_runs DROP CONSTRAINT removed_runs_pkey, ADD PRIMARY KEY (removed_by, stream);
DROP INDEX run_gateway.removed_runs_removed_by, run_gateway.removed_runs_removed_at;
