-- Links whose streams were seen to have events after their acked position: hints, by which work is found among a million
-- links. One may be missing, until a look comes by, and one may stand there for nothing.
CREATE TABLE run_gateway.subscription_work (
    subscription bigint NOT NULL,
    path         text COLLATE "C" NOT NULL,
    PRIMARY KEY (subscription, path)
);
