"""The places and names that all gateways on one data folder agree on, without having to ask each other."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from gateway.embedded.accounts import Account, choose_account
from gateway.embedded.binaries import Binaries, find_binaries
from gateway.embedded.cluster import Cluster
from gateway.embedded.errors import EmbeddedPostgresError
from gateway.embedded.runtime import PORT, choose_runtime


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
