"""A wall clock that is set while its process runs, by libfaketime; the monotonic one goes on as it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
FAKED: Final[Mapping[str, str]] = {
    "LD_PRELOAD": str(LIBRARY),
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    # Its mend for an old libc has timed waits return at once: threads that want Python's lock spin, and little is done.
    "FAKETIME_FORCE_MONOTONIC_FIX": "0",
}
"""What every process is started with whose wall clock is another one."""


class Clock:
    """`file` says by how much it is off; whoever is started with `env` goes by it."""

    def __init__(self, file: Path) -> None:
        assert LIBRARY is not None, "faketime is installed"
        self._file = file
        self.set(0)
        self.env: Mapping[str, str] = {
            **FAKED,
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",  # seconds until a change is noticed
        }

    def set(self, seconds: int) -> None:
        """Off by so many seconds from now on."""
        self._file.write_text(f"{seconds:+d}\n")
