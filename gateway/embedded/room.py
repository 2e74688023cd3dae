"""Room on the disk. A Postgres that finds none for its WAL ends, and cannot start again before there is some: nothing
can be read then. Therefore it takes no writes any more shortly before that, and takes them again when there is room.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Callable
from typing import Final

from gateway.embedded.home import Home

logger = logging.getLogger("gateway.embedded")

FLOOR: Final = 64 << 20  # bytes: WAL of a second of heavy load, and what a checkpoint and autovacuum write after that
ENOUGH: Final = 96 << 20

_INCLUDE: Final = "include_if_exists = 'room.conf'\n"
# As long as one another: one is written over the other in place, which needs no room.
_WRITES: Final = b"default_transaction_read_only = off\n"
_NO_WRITES: Final = b"default_transaction_read_only = on \n"


class Room:
    """The room on the disk of a Postgres that runs. `free`: how many bytes it is; by default the disk is asked."""

    def __init__(self, home: Home, free: Callable[[], int] | None = None) -> None:
        self._home = home
        self._free = free or (lambda: shutil.disk_usage(home.cluster.folder).free)
        self._tight: bool | None = None  # None: nobody has looked, and an earlier gateway may have left it so

    def look(self, postmaster: int) -> None:
        """Makes Postgres refuse writes while there is too little room. Raises OSError."""
        free = self._free()
        tight = free < (ENOUGH if self._tight else FLOOR)
        if tight is self._tight:
            return
        self._write(_NO_WRITES if tight else _WRITES)
        os.kill(postmaster, signal.SIGHUP)
        if tight:
            logger.error(
                "The disk of %s is full but for %d MB: Postgres takes no writes.", self._home.cluster, free >> 20
            )
        elif self._tight:
            logger.warning("There is room on the disk of %s again: Postgres takes writes.", self._home.cluster)
        self._tight = tight

    def _write(self, setting: bytes) -> None:
        file = self._home.cluster.folder / "room.conf"
        if not file.exists():
            file.write_bytes(setting)
            file.chmod(0o644)  # Postgres may be another user
        with file.open("r+b") as opened:
            opened.write(setting)
        main = self._home.cluster.folder / "postgresql.conf"
        if _INCLUDE not in main.read_text():
            with main.open("a") as appended:
                appended.write(_INCLUDE)
