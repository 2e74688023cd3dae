"""The state that the workers of one Machine share. They own together, since they share the application.

Each of them beats for the life and believes by its own beats. What one worker does for all is known to all before it is
done: that the Machine drains, and that a life was ended from here. These stand in a small file that all have in memory.
A write holds a lock on its conversation's byte of that file, which the kernel gives back when a worker dies: so a
conversation is given away only when no worker has a write of it.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

if sys.platform != "win32":  # where there is one worker
    import fcntl

_NAME: Final = "owner"
_SIZE: Final = 4096
_MACHINE: Final = slice(0, 16)
_DRAINING: Final = 16
_COUNT: Final = struct.Struct("=Q")
_COUNT_AT: Final = 24
_PASSED_AT: Final = 32
_ENDED_AT: Final = 64  # the lives that were ended last, in a ring
_ENDED: Final = struct.Struct(f"={(_SIZE - _ENDED_AT) // 8}Q")
_RING: Final = (_SIZE - _ENDED_AT) // 8
_WRITER: Final = 1 << 40  # the byte whose lock is held while a life is added
_FIRST: Final = 1 << 48  # of the conversations' bytes


class Alone:
    """A Machine of one process."""

    def __init__(self) -> None:
        self.machine = uuid4()
        self.draining = False
        self.passed = 0  # conversations that were given to a Machine by this one
        self.ended: set[int] = set()

    def drain(self) -> bool:
        """Whether the whole Machine drains, as this process does."""
        self.draining = True
        return True

    def end(self, life: int) -> None:
        """From now on nobody here sends anything by this life."""
        self.ended.add(life)

    def pass_on(self) -> None:
        """A conversation was given to another Machine, or may have been: earlier answers about its owner are void."""
        self.passed += 1

    def hold(self, digest: bytes) -> bool:
        """Holds a conversation for a write. False: another worker is just giving it away."""
        return True

    def seize(self, digest: bytes) -> bool:
        """Holds it to give it away. False: another worker holds it."""
        return True

    def release(self, digest: bytes) -> None:
        """Lets go of a conversation."""

    def close(self) -> None:
        """Lets go of everything."""


class Workers(Alone):
    """A worker of several, which meet in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / _NAME, os.O_RDWR)
        self._memory = mmap.mmap(self._file, _SIZE)
        self.machine = UUID(bytes=self._memory[_MACHINE])
        self._seen = 0
        self._ended: set[int] = set()

    @staticmethod
    def make(folder: Path) -> None:
        """Makes the file: once, before there are workers."""
        (folder / _NAME).write_bytes(uuid4().bytes.ljust(_SIZE, b"\0"))

    @staticmethod
    def drain_all(folder: Path) -> None:
        """The whole Machine drains."""
        with open(folder / _NAME, "r+b", buffering=0) as file:
            file.seek(_DRAINING)
            file.write(b"\1")

    @property
    def draining(self) -> bool:  # type: ignore[override]
        return self._memory[_DRAINING] != 0

    @property
    def ended(self) -> set[int]:  # type: ignore[override]
        """Lives that workers of this Machine have ended."""
        (count,) = _COUNT.unpack_from(self._memory, _COUNT_AT)
        if count != self._seen:
            self._ended = set(_ENDED.unpack_from(self._memory, _ENDED_AT))
            self._seen = count
        return self._ended

    @property
    def passed(self) -> int:  # type: ignore[override]
        passed: int = _COUNT.unpack_from(self._memory, _PASSED_AT)[0]
        return passed

    def pass_on(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _WRITER)  # held for a moment
        try:
            _COUNT.pack_into(self._memory, _PASSED_AT, self.passed + 1)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _WRITER)

    def drain(self) -> bool:
        return self.draining  # said by who began the workers: one that ends alone gives nothing away

    def end(self, life: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, _WRITER)  # held for a moment
        try:
            (count,) = _COUNT.unpack_from(self._memory, _COUNT_AT)
            struct.pack_into("=Q", self._memory, _ENDED_AT + 8 * (count % _RING), life)
            _COUNT.pack_into(self._memory, _COUNT_AT, count + 1)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _WRITER)

    def hold(self, digest: bytes) -> bool:
        return self._lock(digest, fcntl.LOCK_SH)

    def seize(self, digest: bytes) -> bool:
        return self._lock(digest, fcntl.LOCK_EX)

    def release(self, digest: bytes) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _byte(digest))

    def close(self) -> None:
        self._memory.close()
        os.close(self._file)

    def _lock(self, digest: bytes, kind: int) -> bool:
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, _byte(digest))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True


def _byte(digest: bytes) -> int:
    return _FIRST + int.from_bytes(digest[:6], "big")
