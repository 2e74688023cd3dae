"""The folder of the socket: every process on one data folder finds it there, and so has the same DSN.

It is not in the data folder: a socket's path has at most 107 bytes, and a data folder may lie deep.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from gateway.embedded.errors import EmbeddedPostgresError
from gateway.embedded.folders import claim

PARENTS = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 (`claim` makes sure that what is in there is ours)
PORT = 5432  # only a part of the socket's name


def choose_runtime(data_dir: Path, uid: int) -> Path:
    """The folder for this data folder, made for the user `uid`. Raises EmbeddedPostgresError."""
    name = "run-gateway-" + hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    reasons: list[str] = []
    for parent in PARENTS:
        try:
            claim(parent / name, uid)
        except OSError as error:
            reasons.append(f"{parent / name}: {error}")
        else:
            return parent / name
    raise EmbeddedPostgresError(f"There is no place for the socket of Postgres ({'; '.join(reasons)}).")


def clear_runtime(runtime: Path) -> None:
    """Removes the socket and the lock of a Postgres that was killed."""
    for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
        (runtime / name).unlink(missing_ok=True)
