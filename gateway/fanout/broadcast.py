"""The followers that stand at the tail of a stream, and the sending of the same bytes to all of them.

This is what a delivery costs. Whatever one connection raises, sending returns, every other follower is sent its bytes,
and the one that raised is ended (law 6).
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from gateway.fanout.uring import BrokenOff, NoUring, Uring
from gateway.outage import SeldomLogger

if TYPE_CHECKING:
    from gateway.fanout.follower import Direct, Follower

logger = logging.getLogger("gateway.fanout.broadcast")
seldom_logger: Final = SeldomLogger(logger)

MANY: Final = 16  # followers from which on one system call for all is the cheaper way
_NONE: Final = array("i")
_FAILED: Final = "A reader was ended: its connection failed while it was sent something."


class ManySends(Protocol):
    """As `gateway.fanout.uring`."""

    def send(self, fds: array[int], data: bytes) -> dict[int, int]: ...
    def close(self) -> None: ...


class Crowd:
    """Followers who have everything up to their tail's position, and the connections to which the next bytes go."""

    __slots__ = ("_connections", "_fds", "_followers")

    def __init__(self) -> None:
        self._connections: dict[Follower, Direct] = {}
        self._followers: tuple[Follower, ...] = ()  # these two are empty until somebody asks
        self._fds = _NONE

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
        """Followers, and in the same order the descriptors of their sockets.

        A connection that is lost ends its follower before its descriptor may be another's.
        """
        if not self._followers:
            self._followers = tuple(self._connections)
            self._fds = array("i", map(_descriptor, self._connections.values()))
        return self._followers, self._fds

    def _forget(self) -> None:
        self._followers = ()
        self._fds = _NONE


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
        """Never raises."""
        if self._uring is not None and len(crowd) >= self._many:
            self._send_at_once(self._uring, crowd, data)
        else:
            self._send_one_by_one(crowd.connections, data)

    def _send_one_by_one(self, connections: Iterable[tuple[Follower, Direct]], data: bytes) -> None:
        size = len(data)
        for follower, connection in connections:
            try:
                sent = connection.send(data)
            except OSError:  # full or lost, which its transport deals with
                sent = 0
            except Exception:
                seldom_logger.exception(_FAILED)
                follower.fail()
                continue
            if sent < size:
                _spill(follower, data, sent)

    def _send_at_once(self, uring: ManySends, crowd: Crowd, data: bytes) -> None:
        followers, fds = crowd.descriptors
        try:
            short = uring.send(fds, data)
        except Exception as error:
            seldom_logger.exception("io_uring has failed: from now on frames are sent to one reader after the other.")
            self.close()
            broken = error if isinstance(error, BrokenOff) else BrokenOff({}, 0, len(fds))
            self._mend(crowd.connections, broken, data)
        else:
            for place, sent in short.items():
                _spill(followers[place], data, sent)

    def _mend(self, connections: Sequence[tuple[Follower, Direct]], broken: BrokenOff, data: bytes) -> None:
        """Nobody is sent anything twice, and nobody is left out."""
        for place, sent in broken.short.items():
            _spill(connections[place][0], data, sent)
        for follower, _ in connections[broken.known : broken.taken]:
            follower.fail()  # what it was sent is not known: its client resumes from what has come whole
        self._send_one_by_one(connections[broken.taken :], data)


def _descriptor(connection: Direct) -> int:
    try:
        return connection.fileno()
    except Exception:
        seldom_logger.exception("A reader is sent nothing: its connection does not tell its descriptor.")
        return -1  # no bytes go there, and what is to be written to it then ends it if that fails too


def _spill(follower: Follower, data: bytes, sent: int) -> None:
    try:
        follower.spill(data[sent:])
    except Exception:
        seldom_logger.exception(_FAILED)
        follower.fail()


ONE_BY_ONE: Final = Broadcast()
"""Without io_uring."""
