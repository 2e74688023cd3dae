"""Outflow: long answers on their way to sockets, a bounded number of bytes in each turn of the loop.

libuv writes what a socket had no room for as soon as there is room, and so it does for all sockets that have room in
the same turn: a thousand clients that read at one time, each with megabytes before it, held the loop for 300 ms. So of
long data no more than a LURE is left to libuv, which tells when the socket has room for that. What comes behind it is
sent when the connection's turn comes.

What waits for clients is kept once, however many of them wait for the same bytes, and whichever part made them: a
connection holds a reference and an offset.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Final, Protocol
from weakref import ref

from gateway.outage import SeldomLogger

seldom_logger: Final = SeldomLogger(logging.getLogger("gateway.wire.outflow"))

LARGE: Final = 16 << 10  # bytes of data that are left to the transport at once
LURE: Final = 4 << 10  # bytes of longer data that the transport waits with, until the socket has room

TURN: Final = 4 << 20  # bytes that are sent in a turn of the loop, by all connections: 16 MiB take some 10 ms
EACH: Final = 8 << 10  # and what a system call counts for, in bytes
FAIR: Final = 1 << 20  # bytes of one connection at a time

ROOM: Final = 64 << 20
"""Bytes of answers that may wait for clients to read them, those of one answer to many counted once. While it is more,
a client that reads nothing is not waited for as long as else: it holds memory that no other can use."""
HURRY: Final = 5.0  # seconds that a client has then
ENOUGH: Final = 16 << 10  # bytes that it has to take in that time, which any working line takes


class Source(Protocol):
    """A connection that has long data to send."""

    def pour(self, room: int) -> int:
        """Sends `room` bytes at most, and asks for another turn if the socket would take more. Returns how many."""
        ...

    def abort(self) -> None: ...


class Outflow:
    """Gives connections their turns to send, one after the other. `turn`: bytes in a turn of the loop."""

    def __init__(self, turn: int = TURN) -> None:
        self.held = 0  # bytes that waited for their clients at the last look, those of one answer to many counted once
        self._turn = turn
        self._spent = 0
        self._waiting: deque[Source] = deque()
        self._kept: dict[int, ref[memoryview]] = {}  # by their hashes, while a connection has them
        self._kept_bytes = 0
        self._next: asyncio.Handle | None = None  # the beginning of the next turn, if it is waited for

    @property
    def crowded(self) -> bool:
        """True if too much waits for clients that do not read it."""
        return max(self.held, self._kept_bytes) > ROOM

    def share(self, data: memoryview) -> memoryview:
        """The same bytes, as another connection holds them if one does: the caller holds what this returns, and no
        copy.
        """
        whole = data.obj
        if len(data) <= LARGE or not isinstance(whole, bytes) or len(whole) != len(data):
            return data  # a part of what is shared already
        key, size = hash(whole), len(whole)
        known = self._kept.get(key)
        if known is None:
            self._kept[key] = ref(data, lambda _: self._forget(key, size))
            self._kept_bytes += size
            return data
        kept = known()
        return kept if kept is not None and kept.obj == whole else data

    def _forget(self, key: int, size: int) -> None:
        """No connection has these bytes any more."""
        del self._kept[key]
        self._kept_bytes -= size

    def ask(self, source: Source) -> None:
        """Sends the next part of a connection's data now, if no other waits and there is room, else in a later turn."""
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._begin)
        if self._waiting or self._spent >= self._turn:
            self._waiting.append(source)
        else:
            self._pour(source)

    def later(self, source: Source) -> None:
        """Gives a connection its turn behind those that wait."""
        self._waiting.append(source)
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        """Another turn of the loop."""
        self._spent = 0
        self._next = None
        for _ in range(len(self._waiting)):
            if self._spent >= self._turn:
                break
            self._pour(self._waiting.popleft())
        if (self._spent or self._waiting) and self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._begin)

    def _pour(self, source: Source) -> None:
        """Sends the next part of a connection's data. One that raises ends itself, and nobody else."""
        try:
            self._spent += EACH + source.pour(FAIR)
        except Exception:
            seldom_logger.exception("A connection was ended: it failed while it was sent the rest of an answer.")
            source.abort()
