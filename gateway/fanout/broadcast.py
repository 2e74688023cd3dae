"""The followers that stand at the tail of a stream, and the sending of the same bytes to all of them.

This is what a delivery costs.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from gateway.fanout.uring import NoUring, Uring

if TYPE_CHECKING:
    from gateway.fanout.follower import Direct, Follower

logger = logging.getLogger("gateway.fanout.broadcast")

MANY: Final = 16  # followers from which on one system call for all is the cheaper way
_NONE: Final = array("i")


class ManySends(Protocol):
    """As `gateway.fanout.uring`."""

    def send(self, fds: array[int], data: bytes) -> dict[int, int]: ...
    def close(self) -> None: ...


class Crowd:
    """Followers who have everything up to their tail's position, and the connections to which the next bytes go."""

    __slots__ = ("_as_of", "_connections", "_fds", "_followers")

    lost: ClassVar[int] = 0
    """Connections that this process has lost. The system may give the descriptor of each to a new one, so whatever was
    noted of descriptors before the last loss must not be used."""

    def __init__(self) -> None:
        self._connections: dict[Follower, Direct] = {}
        self._followers: tuple[Follower, ...] = ()
        self._fds = _NONE
        self._as_of = -1  # the losses that these two know of; -1: they have to be made

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Follower]:
        return iter(self._connections)

    def join(self, follower: Follower, connection: Direct) -> None:
        self._connections[follower] = connection
        self._forget()

    def leave(self, follower: Follower) -> bool:
        """Tells whether it was there."""
        self._forget()
        return self._connections.pop(follower, None) is not None

    @property
    def connections(self) -> tuple[tuple[Follower, Direct], ...]:
        return tuple(self._connections.items())

    @property
    def descriptors(self) -> tuple[tuple[Follower, ...], array[int]]:
        """Followers, and in the same order the descriptors of their sockets."""
        if self._as_of != Crowd.lost:
            self._followers = tuple(self._connections)
            self._fds = array("i", [connection.fileno() for connection in self._connections.values()])
            self._as_of = Crowd.lost
        return self._followers, self._fds

    def _forget(self) -> None:
        self._followers = ()
        self._fds = _NONE
        self._as_of = -1


class Broadcast:
    """Sends bytes to everybody in a crowd: many at once by io_uring, once it is open, and few one by one."""

    def __init__(self, uring: ManySends | None = None, many: int = MANY) -> None:
        self._uring = uring
        self._many = many

    def open(self) -> None:
        """Opens an io_uring, where there is one."""
        try:
            self._uring = Uring()
        except NoUring as reason:
            logger.info("Frames are sent to one reader after the other, without io_uring: %s.", reason)

    def close(self) -> None:
        """Gives it up; whoever is sent something after this is sent it by itself."""
        uring, self._uring = self._uring, None
        if uring is not None:
            uring.close()

    @property
    def at_once(self) -> bool:
        """Whether many are sent to in one system call."""
        return self._uring is not None

    def __call__(self, crowd: Crowd, data: bytes) -> None:
        if self._uring is not None and len(crowd) >= self._many:
            followers, fds = crowd.descriptors
            for place, sent in self._uring.send(fds, data).items():
                followers[place].spill(data[sent:])
            return
        size = len(data)
        for follower, connection in crowd.connections:
            try:
                sent = connection.send(data)
            except OSError:  # full or lost, which its transport deals with
                sent = 0
            if sent < size:
                follower.spill(data[sent:])


ONE_BY_ONE: Final = Broadcast()
"""Without io_uring."""
