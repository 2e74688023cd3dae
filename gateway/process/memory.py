"""Memory that a burst took goes back to the system. glibc by itself keeps most of it.

Where the C library is another one, nothing is done here.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import ClassVar, Final

LARGE: Final = 4 << 20
"""Bytes from which on an object has pages of its own, which are freed with it. glibc raises this limit up to 32 MiB as
soon as one such object is freed, unless it is set. Below are pages of the log, which come and go all the time."""

KEPT: Final = 32 << 20  # bytes by which the process may have grown before it is looked whether any of them are free
FREED: Final = 4 << 20  # bytes that have become free since the last look, from which on they are worth giving back

# From malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of malloc.h, for all arenas."""

    _fields_: ClassVar = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


class Memory:
    """The memory of this process."""

    def __init__(self) -> None:
        self._libc = _glibc()
        self._held = 0  # bytes that were in memory, at the last look or since
        self._free = 0  # bytes of the heap that nobody used, in memory or not: the same
        if self._libc is not None:
            self._libc.mallopt(_MMAP_THRESHOLD, LARGE)
            self._libc.mallopt(_TRIM_THRESHOLD, KEPT)

    def give_back(self) -> None:
        """Makes glibc give back what it has free, if the process has grown by KEPT since the last time, or FREED is
        free that was not. After a burst it is the latter that tells: what was used is free, and still in memory.

        It takes about a tenth of a millisecond for each MiB that goes back.
        """
        if self._libc is None:
            return
        held, free = resident(), self._unused()
        if held > self._held + KEPT or free > self._free + FREED:
            self._libc.malloc_trim(0)
            self._held, self._free = resident(), self._unused()
        else:
            self._held, self._free = min(self._held, held), min(self._free, free)

    def _unused(self) -> int:
        """Bytes of the heap that are free; 0 where glibc is older than 2.33."""
        info = getattr(self._libc, "mallinfo2", None)
        return 0 if info is None else int(info().fordblks)


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
    if hasattr(libc, "mallinfo2"):
        libc.mallinfo2.restype = _Mallinfo
    return libc if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "malloc_trim") else None
