"""Reads what upstreams send for all recordings together: when a round begins, and not whenever something has come.

To be woken for a frame takes more of a processor than to read it. So as long as rounds go on, nobody is woken; after
that, something that comes rings once. An answer over TLS is read as it comes: its bytes are another's first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable
from functools import cached_property
from typing import Final

logger = logging.getLogger("gateway.relay")

MOST: Final = 250  # connections that are read from in one turn of the loop; the others have theirs in the next
SIZE: Final = 32 << 10  # bytes that are read from one of them: of frames of ten bytes they take 2 ms
TURN: Final = 96 << 10  # bytes that are read in one turn of the loop

Take = Callable[[bytes, OSError | None], None]
"""Is given what has come; no bytes: its end, or the error that is one."""


class Reading:
    """Connections by their descriptors, which are readable without waiting, or not at all."""

    def __init__(self) -> None:
        self.ring: Callable[[], None] = lambda: None
        self._takes: dict[int, Take] = {}
        self._left: list[int] = []  # those that have something and were not read in the last turn, the next one last
        self._buffer = memoryview(bytearray(SIZE))
        self._watched = False

    @cached_property
    def _ready(self) -> select.epoll | None:
        """Says which have something; None: this system has no such thing."""
        return select.epoll() if hasattr(select, "epoll") else None

    @property
    def possible(self) -> bool:
        """Whether connections can be read together here."""
        return self._ready is not None

    def add(self, descriptor: int, take: Take) -> None:
        """Reads from this one as well, until `remove`, which comes before it is closed."""
        assert self._ready is not None, "or it is not possible"
        if descriptor not in self._takes:
            self._ready.register(descriptor, select.EPOLLIN)
            self._takes[descriptor] = take
            self.watch()

    def remove(self, descriptor: int) -> None:
        """Reads from this one no more."""
        if self._takes.pop(descriptor, None) is not None and self._ready is not None:
            self._ready.unregister(descriptor)

    def read(self) -> bool:
        """Gives out what has come, as far as it does not hold the loop. False: there is more, for the next turn."""
        if not self._takes or self._ready is None:
            return True
        if not self._left:
            self._left = [descriptor for descriptor, _ in reversed(self._ready.poll(0, MOST))]
        whole, room = len(self._left) < MOST, TURN
        while self._left and room > 0:
            descriptor = self._left.pop()
            take = self._takes.get(descriptor)
            if take is None:
                continue  # one that was read before it has had this one removed
            try:
                size = self._read(descriptor, take)
                room -= size
                whole = whole and size < SIZE
            except Exception:
                logger.exception(
                    "Bytes of an upstream could not be recorded; their recording ends after GATEWAY_RELAY_SILENCE."
                )
                self.remove(descriptor)
        return whole and not self._left

    def _read(self, descriptor: int, take: Take) -> int:
        try:
            size = os.readv(descriptor, (self._buffer,))
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            take(b"", error)
            return 0
        take(bytes(self._buffer[:size]), None)
        return size

    def watch(self) -> None:
        """Calls `ring`, once, when something comes."""
        if not self._watched and self._takes and self._ready is not None:
            self._watched = True
            asyncio.get_running_loop().add_reader(self._ready.fileno(), self._rings)

    def close(self) -> None:
        """Ends: nothing is read from now on."""
        if self._ready is not None:
            self._unwatch()
            self._takes.clear()
            self._ready.close()

    def _rings(self) -> None:
        self._unwatch()
        self.ring()

    def _unwatch(self) -> None:
        if self._watched and self._ready is not None:
            self._watched = False
            asyncio.get_running_loop().remove_reader(self._ready.fileno())
