"""The output of Postgres, in a file that does not grow for ever, and its last lines when a start has failed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from gateway.embedded.errors import EmbeddedPostgresError

LIMIT = 5 * 1024 * 1024  # bytes, at which the next start puts it aside
LINES = 15


class ServerLog:
    """`postgres.log`, and its predecessor `postgres.log.1`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = 0

    def begin(self) -> None:
        """Marks a start; a log that has grown too long is put aside first."""
        self._mark = self.path.stat().st_size if self.path.exists() else 0
        if self._mark > LIMIT:
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            self._mark = 0

    def open(self) -> BinaryIO:
        """Opens the log for us and Postgres to append to; no other user may read it."""
        return open(self.path, "ab", opener=_private)

    def failure(self, what: str) -> EmbeddedPostgresError:
        """The error for a start that failed, with what was printed since it began."""
        with self.path.open("rb") as log:
            log.seek(self._mark)
            lines = log.read().decode(errors="replace").splitlines()[-LINES:]
        return EmbeddedPostgresError("\n".join([f"{what}. The end of {self.path}:", *lines]))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
