"""A reader of many streams over one connection. Each of them is followed by its own tail, as by any other reader.

Nothing is queued for it (law 6). A stream that has something new takes one place in a line; what it has is fetched
when its turn comes, and while the connection is not full: from its tail's memory, or by a read of the log that all
readers of that stream share. Turns go round, a page each, and no more than READS pages are read or held at a time.
Of a connection that is full, no LARGE page is held: it is read again when there is room, one page at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Final

from gateway.fanout.follower import Direct, Signal
from gateway.fanout.hub import Hub
from gateway.fanout.tail import Tail
from gateway.fanout.waiting import WaitingReader
from gateway.outage import SeldomLogger
from gateway.protocol.batch import LINE, Batch, Encoding, Page, Stream
from gateway.protocol.errors import ProtocolError, StreamGone, StreamNotFound
from gateway.protocol.offset import NOW, events_between
from gateway.tasks import turn

logger = logging.getLogger("gateway.fanout.multiplex")
seldom_logger: Final = SeldomLogger(logger)

READS: Final = 4  # pages that are read for one reader, or held for it, at a time
LARGE: Final = 128 << 10  # bytes of a page that holds an event larger than pages are
FEW: Final = 16  # streams whose turns are short; of more, a reader's turns wait for a turn of the loop
EACH: Final = 100  # bytes that a stream's turn counts for, at least

Look = Callable[[list[str]], Awaitable[Mapping[str, Stream | None]]]
"""The streams at these paths, in one question; None: it was deleted, and its forks still need it."""

Given = list[tuple["Followed", Batch | ProtocolError]]
"""Batches of some of the streams; a refusal is a stream's last word."""

Check = Callable[[int], None]
"""Raises a ProtocolError if the reader may not have the stream with this id."""


class Turn(Enum):
    """Why a stream's turn gave nothing."""

    WAITING = "waiting"  # the stream has nothing new
    LACKING = "lacking"  # the log has to be read first


class Followed:
    """A stream of a Multiplex, read up to `position`. `place`: by which its reader knows it."""

    __slots__ = (
        "_check",
        "_end",
        "_stream",
        "begun",
        "encoding",
        "gone",
        "lined",
        "path",
        "place",
        "position",
        "tail",
        "took",
        "turns",
    )

    def __init__(self, turns: Multiplex, tail: Tail, place: int, position: int, check: Check | None) -> None:
        self.path = tail.path
        self.place = place
        self.position = position
        self.tail = tail
        self.turns = turns
        self.lined = False  # it has a place in the line, or waits for a read
        self.gone = False  # its reader follows it no more
        self.encoding = Encoding.JSON
        self.begun = False  # it has had a first page
        self.took: Batch | ProtocolError | None = None  # by a read, and not given yet
        self._check = check
        self._end = 0  # of the stream, as its last read showed it
        self._stream: int | None = None

    # What its tail calls

    def wake(self) -> None:
        """Notes that there is something new."""
        self.tail.waiting.discard(self)
        self.turns.line_up(self)

    def beat(self) -> None:
        """Does nothing: that this stream was silent for long says nothing of the others."""

    def end(self) -> None:
        """The stream is gone, or is another one; its turn finds out which."""
        self.wake()

    def fail(self) -> None:
        self.turns.fail()

    # Its turn

    def take(self) -> Batch | ProtocolError | Turn:
        """The stream's next batch, or its refusal; or why there is none yet."""
        took, self.took = self.took, None
        tail = self.tail
        if took is not None:
            self.turns.let_go()
            if isinstance(took, Batch):
                self.position = took.end
            return took
        if tail.ended or not self.begun:
            return Turn.LACKING
        if tail.position == self.position:
            if tail.closed:
                return Batch(self.position, self.position, b"", True, True)
            tail.waiting.add(self)
            return Turn.WAITING
        batch = tail.since(self.position)
        if batch is None:
            return Turn.LACKING
        self.position = batch.end
        return batch

    @property
    def behind(self) -> int:
        """The events that it has yet to be given, as far as this Machine knows."""
        return max(0, events_between(self.position, max(self._end, self.tail.position or 0)))

    async def read(self, hub: Hub) -> None:
        """Reads a page, which `take` gives then. Raises what is not this stream's fault alone."""
        if self.tail.ended:
            self._begin_again(hub)
        try:
            await self._read(hub)
        except ProtocolError as error:
            if error.status == 503:
                raise  # the log is away, or busy, for all of them
            self.took = error

    async def _read(self, hub: Hub) -> None:
        tail = self.tail
        if self.begun:
            page = await hub.read_on(tail, self.position)
            self._know(page.stream)
            if page.batch.empty and not page.batch.closed and not tail.ended and tail.position != self.position:
                # Nothing there, though this is not the tail: the tail is behind, or the reader is ahead of the log.
                tail.waiting.add(self)
            else:
                self.took = page.batch
        elif self.position == NOW:
            self.enter(await hub.enter_last(tail, 0))
        else:
            self.enter(await hub.enter(tail, self.position))

    def enter(self, page: Page) -> None:
        """Takes its first page, or the first of a tail that has taken another's place. Raises what forbids it."""
        if self._check is not None:
            self._check(page.stream.id)
        self._know(page.stream)
        self.encoding = page.stream.encoding
        self.begun = True
        self.took = page.batch

    def _know(self, stream: Stream) -> None:
        if self._stream not in (None, stream.id):
            raise StreamGone("Another stream is at its path now.")
        self._stream, self._end = stream.id, stream.tail

    def _begin_again(self, hub: Hub) -> None:
        """Follows what is at its path now, from where it stands (law 4: before it is read)."""
        hub.unfollow(self.tail)
        self.tail = hub.follow(self.path)
        self.begun = False


class Multiplex(WaitingReader):
    """The streams of one reader. Use as a context manager."""

    def __init__(self, hub: Hub, heartbeat: float, direct: Direct | None = None) -> None:
        super().__init__(hub.deadlines, heartbeat, direct)
        self.followed: set[Followed] = set()
        self._hub = hub
        self._line: deque[Followed] = deque()
        self._lacking: deque[Followed] = deque()
        self._pages = 0  # that are being read, or held
        self._most = READS  # of them
        self._failed: ProtocolError | None = None
        self._reads: set[asyncio.Task[None]] = set()

    def __exit__(self, *_: object) -> None:
        for followed in tuple(self.followed):
            self.unfollow(followed)
        self._line.clear()  # no ring of references is left, which only the collector would find
        self._lacking.clear()
        for read in self._reads:
            read.cancel()
        super().__exit__()

    def follow(self, path: str, place: int, position: int, check: Check | None = None) -> Followed:
        """Follows one more stream, from `position` on, which may be NOW. `check` sees the id of what is found there."""
        followed = Followed(self, self._hub.follow(path), place, position, check)
        self.followed.add(followed)
        self.line_up(followed)
        return followed

    def unfollow(self, followed: Followed) -> None:
        """Follows a stream no more. What was read for it and not given is forgotten."""
        if followed.gone:
            return
        followed.gone = True
        self.followed.discard(followed)
        if followed.took is not None:
            followed.took = None
            self.let_go()
        followed.tail.waiting.discard(followed)
        self._hub.unfollow(followed.tail)

    async def look(self, look: Look) -> None:
        """Asks once for all streams that have just come: of those that have nothing new, none is read by itself.

        Raises what `look` raises.
        """
        new = [followed for followed in self._line if not followed.begun and followed.took is None]
        if len(new) < 2:
            return
        found = await look([followed.path for followed in new])
        if len(new) > FEW:
            await turn(EACH * len(new))
        for followed in new:
            if not followed.gone and not followed.tail.ended:
                self._settle(followed, found)

    def _settle(self, followed: Followed, found: Mapping[str, Stream | None]) -> None:
        stream = found.get(followed.path)
        try:
            if stream is None:
                raise StreamGone if followed.path in found else StreamNotFound
            if stream.ttl is not None or stream.encoding is Encoding.TEXT:
                return  # a read prolongs a TTL, and finds what stands before a text
            if followed.position not in (NOW, stream.tail):
                return
            page = Page(stream, Batch(stream.tail, stream.tail, b"", True, stream.closed))
            self._hub.observe(followed.tail, page)
            followed.enter(page)
        except ProtocolError as error:
            followed.took = error
        self._pages += 1

    async def next(self) -> Given | Signal:
        """The next batches and refusals, one turn for each stream that has something; or a signal.

        Raises what a read of the log raises that concerns all of them.
        """
        if self.writable:
            self._most = READS
        else:
            self._most = 1  # it takes them more slowly than they are read
            self._let_go_of_large()
        return await self._next(self._turns)

    async def _turns(self) -> Given | None:
        if len(self._line) > FEW:
            # A commit to a thousand streams has a thousand lines of everyone who follows them.
            await turn(EACH * len(self._line))
        if self._failed is not None:
            raise self._failed
        return self._gather() or None

    def _gather(self) -> Given:
        """A turn of each of those in the line, until there is as much as one frame should have."""
        given: Given = []
        size = 0
        for _ in range(len(self._line)):
            if size >= LINE:
                break
            followed = self._line.popleft()
            followed.lined = False
            if followed.gone:
                continue
            taken = followed.take()
            if isinstance(taken, Turn):
                if taken is Turn.LACKING:
                    followed.lined = True
                    self._lacking.append(followed)
                continue
            given.append((followed, taken))
            if isinstance(taken, Batch):
                size += len(taken.body)
                if not taken.closed:
                    self.line_up(followed)  # behind the others
        self._read_some()
        return given

    def _read_some(self) -> None:
        while self._lacking and self._pages < self._most and self.writable:
            followed = self._lacking.popleft()
            if followed.gone:
                continue
            self._pages += 1
            read = asyncio.ensure_future(self._read(followed))
            self._reads.add(read)
            read.add_done_callback(self._reads.discard)

    async def _read(self, followed: Followed) -> None:
        try:
            await followed.read(self._hub)
        except ProtocolError as error:
            self._failed = error
            self._bell.ring()
            return
        except Exception:
            seldom_logger.exception("Reading for a reader of many streams failed; its client resumes.")
            self.fail()
            return
        followed.lined = False
        if followed.took is None or followed.gone:
            followed.took = None
            self.let_go()
        if followed.took is not None:
            self.line_up(followed)
        if not self.writable:
            self._let_go_of_large()
        self._read_some()

    def _let_go_of_large(self) -> None:
        """Large pages that are held are read again, when the connection is not full any more."""
        for followed in tuple(self._line) if self._pages else ():
            if isinstance(followed.took, Batch) and len(followed.took.body) > LARGE:
                followed.took = None
                self.let_go()
                self._line.remove(followed)
                self._lacking.append(followed)

    # What the streams call

    def line_up(self, followed: Followed) -> None:
        """Gives a stream a place in the line, unless it has one."""
        if not followed.lined and not followed.gone:
            followed.lined = True
            self._line.append(followed)
            self._bell.ring()

    def let_go(self) -> None:
        """A page is held no more."""
        self._pages -= 1
