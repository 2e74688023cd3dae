"""The data of one major version: what its files say, and how it comes to be.

A pid in a file may belong to another process by now. It is believed only if that process works in this folder.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from gateway.embedded.errors import EmbeddedPostgresError


class Cluster:
    """A folder `postgres-18` with what initdb made and Postgres keeps there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def exists(self) -> bool:
        """True if initdb has ended well here, once."""
        return (self.folder / "PG_VERSION").exists()

    def says_ready(self) -> bool:
        """True if Postgres has written that it takes connections."""
        return self._status()[7:8] == ["ready"]

    def postmaster_pid(self) -> int | None:
        """The pid of the Postgres that runs here, or of one that was killed."""
        # Never 0: a signal to it would go to ourselves. Negative for a Postgres in single-user mode.
        match = re.fullmatch(r"-?([1-9]\d*)", "".join(self._status()[:1]))
        return int(match[1]) if match is not None else None

    def runs_here(self, pid: int) -> bool:
        """True if that process works in this folder, as every process of its Postgres does (Linux)."""
        try:
            return os.path.samefile(f"/proc/{pid}/cwd", self.folder)
        except OSError:  # it has ended, or is another account's
            return False

    def clear_leftovers(self) -> None:
        """Removes the lock file of a Postgres that was killed, since the next would not start while it is there."""
        pid = self.postmaster_pid()
        if pid is not None and self.runs_here(pid):
            raise EmbeddedPostgresError(f"A Postgres that no gateway started (process {pid}) runs on {self}.")
        (self.folder / "postmaster.pid").unlink(missing_ok=True)

    def room(self) -> Path:
        """A new folder for initdb, beside this one; what earlier ones left unfinished is removed."""
        for leftover in self.folder.parent.glob(".initdb-*"):
            shutil.rmtree(leftover)
        return Path(tempfile.mkdtemp(prefix=".initdb-", dir=self.folder.parent))

    def move_in(self, room: Path) -> None:
        """Makes the result of initdb the cluster, whole."""
        room.rename(self.folder)
        parent = os.open(self.folder.parent, os.O_RDONLY)
        try:
            os.fsync(parent)  # else a power cut could take the name away, and the data with it
        finally:
            os.close(parent)

    def _status(self) -> list[str]:
        """The lines of postmaster.pid: the first is the pid, the eighth "ready" when it is."""
        try:
            return [line.strip() for line in (self.folder / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return []
