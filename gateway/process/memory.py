"""Memory that a burst took goes back to the system. glibc by itself keeps most of it.

Where the C library is another one, nothing is done here.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

LARGE: Final = 4 << 20
"""Bytes from which on an object has pages of its own, which are freed with it. glibc raises this limit up to 32 MiB as
soon as one such object is freed, unless it is set. Below are pages of the log, which come and go all the time."""

KEPT: Final = 32 << 20  # bytes by which the process may have grown before it is looked whether any of them are free

# From malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3


class Memory:
    """The memory of this process."""

    def __init__(self) -> None:
        self._libc = _glibc()
        self._held = 0
        if self._libc is not None:
            self._libc.mallopt(_MMAP_THRESHOLD, LARGE)
            self._libc.mallopt(_TRIM_THRESHOLD, KEPT)

    def give_back(self) -> None:
        """Has glibc give back what it has free, if the process has grown by more than KEPT since the last time.

        It takes about a tenth of a millisecond for each MiB that goes back.
        """
        if self._libc is not None and resident() > self._held + KEPT:
            self._libc.malloc_trim(0)
            self._held = resident()
        elif self._held:
            self._held = min(self._held, resident())


def resident() -> int:
    """Bytes of this process that are in memory; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "malloc_trim") else None
