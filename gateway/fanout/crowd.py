"""The followers that stand at the tail of a stream, and the frames on their way to them.

Until it has been sent a frame, or been told to fetch for itself, a follower stands where it stood (law 3).
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from operator import methodcaller
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from gateway.outage import SeldomLogger

if TYPE_CHECKING:
    from gateway.fanout.broadcast import Socket
    from gateway.fanout.follower import Direct, Follower

logger = logging.getLogger("gateway.fanout.crowd")
seldom_logger: Final = SeldomLogger(logger)

MOST_WAITING: Final = 16  # frames on their way to a crowd
_NONE: Final = array("i")

WAKE: Final = methodcaller("wake")
BEAT: Final = methodcaller("beat")
END: Final = methodcaller("end")


class Member(Protocol):
    """A follower that may be ended, since its connection failed."""

    def fail(self) -> None: ...


class Waiting(Member, Protocol):
    """A reader that is woken when there is something new, and fetches for itself."""

    def wake(self) -> None: ...
    def beat(self) -> None: ...
    def end(self) -> None: ...


AMember = TypeVar("AMember", bound=Member)


def tell(followers: Iterable[AMember], what: Callable[[AMember], None]) -> None:
    """Calls `what` (WAKE, BEAT, END) with each follower. A follower that raises is ended; all others are called."""
    for follower in followers:
        try:
            what(follower)
        except Exception:
            seldom_logger.exception("Notifying a reader failed; the reader was ended, and its client resumes.")
            follower.fail()


class Sending:
    """A frame that goes out in several turns: followers that are `due` have not been sent it, and stand at `start`.

    Frames that come behind it, for the same followers, go out with it as long as it has not begun. A sending without
    frames, since too many have gathered, lets its followers go: they fetch for themselves.
    """

    __slots__ = ("_frames", "_joined", "begun", "due", "size", "start")

    def __init__(self, start: int, frame: bytes, due: dict[Follower, Direct], joined: int) -> None:
        self.start = start
        self.size = len(frame)
        self.due = due
        self.begun = False
        self._frames = [frame]
        self._joined = joined

    def takes(self, frame: bytes, joined: int) -> bool:
        """Adds a frame. False: a follower has joined meanwhile, which must be sent this frame alone."""
        if self.begun or joined != self._joined or not self._frames:
            return False
        self._frames.append(frame)
        self.size += len(frame)
        return True

    def drop(self) -> None:
        """Forgets the bytes."""
        self._frames.clear()
        self.size = 0

    @property
    def data(self) -> bytes:
        if len(self._frames) > 1:
            self._frames = [b"".join(self._frames)]
        return self._frames[0] if self._frames else b""

    def let_go(self, count: int) -> None:
        """Lets so many of those who are due leave the crowd, for good, from where they stand."""
        leaving = list(islice(self.due, count))
        tell(leaving, WAKE)
        for follower in leaving:
            self.due.pop(follower, None)  # one that has not left does not keep the others

    def next(self, count: int) -> list[tuple[Follower, Direct]]:
        """Takes so many of those who are due. From now on they count as having been sent it."""
        self.begun = True
        return [self.due.popitem() for _ in range(min(count, len(self.due)))]


class Crowd:
    """Followers who have everything up to their tail's position, and the connections to which the next bytes go.

    `members`: each with its connection; a delivery looks at it, since to call for its length takes longer. `sendings`:
    what is on its way to them, the oldest first. `ending`: after that, all of them end.
    """

    __slots__ = ("_fds", "_joined", "_pairs", "ending", "members", "sendings")

    def __init__(self) -> None:
        self.sendings: tuple[Sending, ...] = ()
        self.ending = False
        self._joined = 0  # how many followers have joined so far
        self.members: dict[Follower, Direct] = {}
        self._pairs: tuple[tuple[Follower, Direct], ...] = ()  # both are empty until `descriptors` is asked for
        self._fds = _NONE

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Follower]:
        return iter(self.members)

    def join(self, follower: Follower, connection: Direct) -> None:
        self.members[follower] = connection
        self._joined += 1
        self._forget()

    def leave(self, follower: Follower, at: int | None) -> int | None:
        """The position up to which it was sent everything: `at`, where the tail is, or less while frames are on their
        way. None: it was not there.
        """
        if self.members.pop(follower, None) is None:
            return None
        self._forget()
        for sending in reversed(self.sendings):
            if sending.due.pop(follower, None) is not None:
                at = sending.start
        return at

    def end(self) -> None:
        """Ends all followers, as soon as everything has been sent that is on its way."""
        if self.sendings:
            self.ending = True
        else:
            tell(tuple(self.members), END)

    def add(self, start: int, frame: bytes, backlog: int) -> None:
        """Keeps a frame for its turn. With more than `backlog` bytes behind the first, followers fetch them instead."""
        behind = self.sendings[1:]
        if not behind or not behind[-1].takes(frame, self._joined):
            self.sendings += (Sending(start, frame, dict(self.members), self._joined),)
        if len(self.sendings) > MOST_WAITING or sum(sending.size for sending in self.sendings[1:]) > backlog:
            for sending in self.sendings:
                sending.drop()

    @property
    def connections(self) -> tuple[tuple[Follower, Direct], ...]:
        return tuple(self.members.items())

    @property
    def descriptors(self) -> tuple[tuple[tuple[Follower, Direct], ...], array[int]]:
        """Followers and their connections, and in the same order the descriptors of their sockets.

        A connection that is lost ends its follower before its descriptor can be another connection's.
        """
        if not self._pairs:
            self._pairs = self.connections
            self._fds = descriptors(self.members.values())
        return self._pairs, self._fds

    def _forget(self) -> None:
        self._pairs = ()
        self._fds = _NONE


def descriptors(connections: Collection[Socket]) -> array[int]:
    """The descriptors of the connections' sockets, in their order; -1 for a connection that raises."""
    with suppress(Exception):
        return array("i", [connection.fileno() for connection in connections])
    return array("i", map(_descriptor, connections))


def _descriptor(connection: Socket) -> int:
    try:
        return connection.fileno()
    except Exception:
        seldom_logger.exception("A reader's connection has no descriptor; frames are written to it by its transport.")
        return -1  # no bytes go there, and what is to be written to it then ends it if that fails too
