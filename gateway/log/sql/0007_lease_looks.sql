-- Since when somebody has looked at leases without a break. Where nobody has, no producer could be heard.

ALTER TABLE run_gateway.lease_looks ADD COLUMN since timestamptz;
