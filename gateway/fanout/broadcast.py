"""Sending the same bytes to all followers that stand at the tail of a stream, and their own to those of many streams.

This is what a delivery costs. Whatever one connection raises, sending returns, every other follower is sent its bytes,
and the follower whose connection raised is ended (law 6). What would hold the loop for too long goes out in several of
its turns; until its turn has come, a follower stands where it stood (law 3).
"""

from __future__ import annotations

import asyncio
import logging
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice, repeat
from typing import TYPE_CHECKING, Final, Protocol

from gateway.fanout.crowd import descriptors
from gateway.fanout.uring import BrokenOff, NoUring, Uring
from gateway.outage import SeldomLogger

if TYPE_CHECKING:
    from gateway.fanout.crowd import Crowd

logger = logging.getLogger("gateway.fanout.broadcast")
seldom_logger: Final = SeldomLogger(logger)

# What sending costs is reckoned in bytes: those of the frame, and EACH for the system call. 16 MiB take some 10 ms.
EACH: Final = 8 << 10
TURN: Final = 16 << 20  # in one turn of the loop
BACKLOG: Final = 2 << 20  # bytes that wait behind a frame on its way to a crowd; with more, all have to fetch them
LET_GO: Final = 64  # followers that are told to fetch for themselves, in one turn

MANY: Final = 16  # followers from which on one system call for all is the cheaper way
GATHERED: Final = 8 << 10  # bytes of a frame that is copied to go out together with those of other streams
_FAILED: Final = "A reader was ended: its connection failed while it was sent something."


class ManySends(Protocol):
    """The port to `gateway.fanout.uring`: one call that sends to many sockets."""

    def send(self, fds: array[int], data: bytes) -> dict[int, int]: ...
    def send_each(self, fds: array[int], frames: Sequence[bytes]) -> dict[int, int]: ...
    def close(self) -> None: ...


class Recipient(Protocol):
    """A connection that takes what its socket did not (`spill`), and is ended when it fails."""

    def spill(self, rest: memoryview) -> None: ...
    def fail(self) -> None: ...


class Socket(Protocol):
    """A connection, as far as it is sent to: see `gateway.fanout.follower.Direct`."""

    def fileno(self) -> int: ...
    def send(self, data: bytes) -> int: ...


class Lone(Recipient, Socket, Protocol):
    """A connection that nobody follows by. Nothing waits in it for its socket."""


class Broadcast:
    """Sends bytes to a crowd: by io_uring, once open, where the crowd is large; else to one follower at a time."""

    def __init__(
        self,
        uring: ManySends | None = None,
        many: int = MANY,
        *,
        turn: int = TURN,
        backlog: int = BACKLOG,
    ) -> None:
        self._uring = uring
        self._many = many
        self._turn = turn
        self._backlog = backlog
        self._spent = 0  # of this turn of the loop
        self._next: asyncio.Handle | None = None  # the beginning of the next turn, if it is waited for
        self._crowds: deque[Crowd] = deque()  # to which frames are on their way
        self._gathered: dict[Recipient, bytes] | None = None  # within `together`: what goes to whom at its end
        self._to: list[Socket] = []  # their connections

    def open(self) -> None:
        """Opens an io_uring, where there is one."""
        try:
            self._uring = Uring()
        except NoUring as reason:
            logger.info("Frames are sent to one reader after the other, without io_uring: %s.", reason)

    def close(self) -> None:
        """Closes the ring. From now on, bytes are sent to one follower after the other."""
        uring, self._uring = self._uring, None
        if uring is not None:
            uring.close()

    @property
    def at_once(self) -> bool:
        """True while the ring is open: a large crowd is sent to in one system call."""
        return self._uring is not None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Sends what small crowds are given within this block at its end, in one system call.

        Nothing may be awaited in the block: those who leave a crowd meanwhile were given what they are about to be
        sent.
        """
        if self._uring is None or self._gathered is not None:
            yield
            return
        gathered: dict[Recipient, bytes] = {}
        self._gathered, self._to = gathered, []
        try:
            yield
        finally:
            self._gathered = None
            try:
                self._send_gathered(gathered, self._to)
            except Exception:
                seldom_logger.exception(_FAILED)
                for follower in gathered:
                    follower.fail()  # its tail has moved: its client resumes from what has come whole

    def takes(self, connection: Lone, data: bytes) -> bool:
        """Within `together`: sends `data` to a connection at the end of the block. False: it is to be sent now."""
        gathered = self._gathered
        if gathered is None:
            return False
        if connection in gathered:
            gathered[connection] += data
        else:
            gathered[connection] = data
            self._to.append(connection)
        return True

    def __call__(self, crowd: Crowd, data: bytes, start: int) -> None:
        """Sends `data` to all of a crowd: in this turn of the loop, or else later, as one of the crowd's `sendings`.

        `start`: the position of followers that have not been sent it yet. Never raises.
        """
        count = len(crowd.members)
        cost = count * (len(data) + EACH)
        spent = self._spent + cost  # also where that is little: there may be a thousand crowds
        if crowd.sendings or spent > self._turn:
            self._begin(crowd, data, start)
            return
        self._spent = spent
        if self._next is None:
            self._await_turn()
        if count >= self._many and self._uring is not None:
            members, fds = crowd.descriptors
            self._send_at_once(members, repeat(data), partial(self._uring.send, fds, data))
        elif self._gathered is not None and (len(data) <= GATHERED or not self._gathered.keys().isdisjoint(crowd)):
            self._gather(self._gathered, crowd, data)
        else:
            self._send_one_by_one(tuple(crowd.members.items()), repeat(data))

    def _gather(self, gathered: dict[Recipient, bytes], crowd: Crowd, data: bytes) -> None:
        for follower, connection in crowd.members.items():
            if follower in gathered:
                gathered[follower] += data
            else:
                gathered[follower] = data
                self._to.append(connection)

    def _send_gathered(self, gathered: dict[Recipient, bytes], to: list[Socket]) -> None:
        connections, frames = list(zip(gathered, to, strict=True)), list(gathered.values())
        uring = self._uring
        if uring is not None and len(frames) >= self._many:
            self._send_at_once(connections, frames, lambda: uring.send_each(descriptors(to), frames))
        else:
            self._send_one_by_one(connections, frames)

    def _await_turn(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._take_turn)

    def _begin(self, crowd: Crowd, data: bytes, start: int) -> None:
        if not crowd.sendings:
            self._crowds.append(crowd)
            self._await_turn()
        crowd.add(start, data, self._backlog)

    def _take_turn(self) -> None:
        """Another turn of the loop: what is on its way goes on."""
        self._spent = 0
        self._next = None
        while self._crowds and self._spent < self._turn:
            crowd = self._crowds.popleft()
            self._spent += self._go_on(crowd, self._turn - self._spent)
            if crowd.sendings:
                self._crowds.append(crowd)
            elif crowd.ending:
                crowd.end()
        if self._spent:
            self._await_turn()

    def _go_on(self, crowd: Crowd, room: int) -> int:
        """Goes on with the oldest frame, as far as there is room for it; returns what it took."""
        sending = crowd.sendings[0]
        data = sending.data
        if data:
            cost = len(data) + EACH
            members = sending.next(max(1, room // cost))
            cost *= len(members)
            if self._uring is not None and len(members) >= self._many:
                fds = descriptors([connection for _, connection in members])
                self._send_at_once(members, repeat(data), partial(self._uring.send, fds, data))
            else:
                self._send_one_by_one(members, repeat(data))
        else:
            sending.let_go(LET_GO)
            cost = self._turn
        if not sending.due:
            crowd.sendings = crowd.sendings[1:]
        return cost

    def _send_one_by_one(self, connections: Sequence[tuple[Recipient, Socket]], frames: Iterable[bytes]) -> None:
        for (follower, connection), data in zip(connections, frames, strict=False):
            try:
                sent = connection.send(data)
            except OSError:  # full or lost, which its transport deals with
                sent = 0
            except Exception:
                seldom_logger.exception(_FAILED)
                follower.fail()
                continue
            if sent < len(data):
                _spill(follower, data, sent)

    def _send_at_once(
        self,
        connections: Sequence[tuple[Recipient, Socket]],
        frames: Iterable[bytes],
        send: Callable[[], dict[int, int]],
    ) -> None:
        """Sends each connection its frame by `send`, a call for all."""
        try:
            short = send()
        except Exception as error:
            seldom_logger.exception("io_uring has failed: from now on frames are sent to one reader after the other.")
            self.close()
            broken = error if isinstance(error, BrokenOff) else BrokenOff({}, 0, len(connections))
            self._mend(connections, list(islice(frames, len(connections))), broken)
        else:
            if short:
                _spill_rest(connections, list(islice(frames, len(connections))), short)

    def _mend(
        self, connections: Sequence[tuple[Recipient, Socket]], frames: Sequence[bytes], broken: BrokenOff
    ) -> None:
        """Completes a call that broke off: nothing is sent twice, and no follower is left out."""
        _spill_rest(connections, frames, broken.short)
        for follower, _ in connections[broken.known : broken.taken]:
            follower.fail()  # what it was sent is not known: its client resumes from what has come whole
        self._send_one_by_one(connections[broken.taken :], frames[broken.taken :])


def _spill_rest(
    connections: Sequence[tuple[Recipient, Socket]], frames: Sequence[bytes], short: Mapping[int, int]
) -> None:
    for place, sent in short.items():
        _spill(connections[place][0], frames[place], sent)


def _spill(follower: Recipient, data: bytes, sent: int) -> None:
    try:
        follower.spill(memoryview(data)[sent:])  # no copy: all who are slow share the bytes
    except Exception:
        seldom_logger.exception(_FAILED)
        follower.fail()
