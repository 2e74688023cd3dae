-- How many runs' tokens were made, by the hour's end by which all of them have expired: for who is about to revoke them.
CREATE TABLE run_gateway.token_counts (
    expired timestamptz PRIMARY KEY,
    tokens  bigint NOT NULL
);
