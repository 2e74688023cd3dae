"""The places and names that all gateways on one data folder agree on, without having to ask each other."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.accounts import Account, choose_account
from gateway.embedded.binaries import Binaries, find_binaries
from gateway.embedded.cluster import Cluster
from gateway.embedded.errors import EmbeddedPostgresError
from gateway.embedded.folders import claim

PARENTS = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 (`claim` makes sure that what is in there is ours)
PORT = 5432  # only a part of the socket's name


@dataclass(frozen=True)
class Home:
    """A data folder, and what belongs to it."""

    folder: Path
    account: Account | None
    binaries: Binaries
    cluster: Cluster
    runtime: Path

    @property
    def uid(self) -> int:
        """The user that Postgres runs as."""
        return self.account.uid if self.account is not None else os.geteuid()

    @property
    def dsn(self) -> str:
        """The address of Postgres: equal for every owner and after every restart."""
        return f"postgresql://postgres@/postgres?host={self.runtime}&port={PORT}"

    @property
    def owner_lock(self) -> Path:
        """Held by the gateway that owns the folder."""
        return self.folder / "owner.lock"

    @property
    def postgres_lock(self) -> Path:
        """Held by every process of the Postgres that runs here."""
        return self.folder / "postgres.lock"


def find_home(folder: Path) -> Home:
    """Makes the folder if it is missing, and finds what belongs to it. Raises EmbeddedPostgresError, OSError."""
    if sys.platform == "win32":
        raise EmbeddedPostgresError(
            "There is no embedded Postgres on Windows: set DATABASE_URL to use a Postgres of your own."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")  # the folder usually lies in somebody's project
    clusters = list(folder.glob("postgres-[0-9]*"))
    account = choose_account(clusters)
    binaries = find_binaries(account, {path.name.partition("-")[2] for path in clusters})
    return Home(
        folder=folder,
        account=account,
        binaries=binaries,
        cluster=Cluster(folder / f"postgres-{binaries.major}"),
        runtime=choose_runtime(folder, account.uid if account is not None else os.geteuid()),
    )


def choose_runtime(data_dir: Path, uid: int) -> Path:
    """The folder of the socket, made for the user `uid`: every process on one data folder finds it there.

    It is not in the data folder: a socket's path has at most 107 bytes, and a data folder may lie deep. Raises
    EmbeddedPostgresError.
    """
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
