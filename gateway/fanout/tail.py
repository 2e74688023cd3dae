"""The tail of one stream that somebody follows here: where it stands, what was new lately, who is to be told.

Everything here happens between two awaits: a follower that compares its position with the tail's and joins cannot
miss what comes in between (law 4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.protocol import frames
from gateway.protocol.batch import Batch, Encoding, News, Page, Stream, after, join
from gateway.protocol.offset import format_offset

if TYPE_CHECKING:
    from gateway.fanout.follower import Follower

RING_BYTES: Final = 64 << 10  # of recent batches, for readers that are a little behind
RING_BATCHES: Final = 128
EARLY: Final = 32  # pieces of news, of an EARLYth of RING_BYTES each, that wait for a read that is under way

Send = Callable[[bytes], int]  # as socket.send: how much of it went, or OSError


class Tail:
    """Position, recent batches and followers of one stream.

    `position` is None until a read has reached the end of the log. `direct` holds the followers that stand at
    `position` and are written to by `publish` itself; `waiting` those that are woken and fetch for themselves.
    """

    __slots__ = (
        "closed",
        "cursor_floor",
        "direct",
        "early",
        "encoding",
        "ended",
        "filling",
        "heard",
        "offset",
        "opening",
        "path",
        "position",
        "quiet_since",
        "ring",
        "ring_bytes",
        "stream",
        "users",
        "waiting",
        "wanted",
    )

    def __init__(self, path: str, now: float, offset: Callable[[int], bytes] = format_offset) -> None:
        self.path = path
        self.offset = offset
        self.stream: Stream | None = None
        self.encoding: Encoding  # there as soon as `stream` is
        self.position: int | None = None
        self.closed = False
        self.ended = False  # deleted, expired or replaced by another stream: every follower has to go
        self.wanted = 0  # the highest position that any news has named
        self.filling = False
        self.heard = 0.0  # when the first news came that waits for a read; 0: none does
        self.opening: asyncio.Task[Page] | None = None  # the read that will give it a position, if all goes well
        self.early: list[News] = []
        self.ring: list[Batch] = []  # no deque: one takes 0.6 kB while it is empty
        self.ring_bytes = 0
        self.direct: dict[Follower, Send] = {}
        self.waiting: set[Follower] = set()
        self.users = 0
        self.cursor_floor = 0
        self.quiet_since = now

    def take(self, stream: Stream) -> None:
        """What the first read has found at this path."""
        self.stream = stream
        self.encoding = stream.encoding

    def publish(self, batch: Batch, cursor: int, now: float) -> None:
        """Moves the tail by a batch that begins where it stands, and writes it to whoever stands there too."""
        assert batch.start == self.position, "a tail never skips (law 3)"
        self.position = batch.end  # before the writes: a follower that has to leave meanwhile was given this batch
        self.closed = batch.closed
        self._remember(batch)
        if self.direct:
            self.write(frames.chunk(frames.sse(self.encoding, batch, b"%d" % cursor, offset=self.offset)))
        self.quiet_since = now
        if self.waiting:
            for follower in tuple(self.waiting):
                follower.wake()
        if batch.closed:
            for follower in tuple(self.direct):
                follower.end()  # its last frame said so

    def write(self, data: bytes) -> None:
        """Sends the same bytes to everybody who stands at the tail. This loop is what a delivery costs."""
        size = len(data)
        for follower, send in tuple(self.direct.items()):
            try:
                sent = send(data)
            except OSError:  # full, or lost: its transport knows what to do about either
                sent = 0
            if sent < size:
                follower.spill(data[sent:])

    def remembered(self, position: int) -> Page | None:
        """Everything after `position`, without a look at the log; None where memory is not enough.

        Not for streams with a TTL, which every read of the log prolongs (§5.1).
        """
        stream = self.stream
        if stream is None or stream.ttl is not None or self.position is None or self.ended:
            return None
        batch = self.since(position)
        return None if batch is None else Page(stream, batch)

    def since(self, position: int) -> Batch | None:
        """Everything after `position`, from memory; None when it is not all there."""
        if self.position is None or position > self.position:
            return None
        known = self.closed or self.wanted <= self.position  # whether this is the end, as far as anybody has heard
        if position == self.position:
            return Batch(position, position, b"", known, self.closed)
        recent: list[Batch] = []
        for batch in reversed(self.ring):
            recent.append(batch)
            if batch.start <= position:
                rest = after(self.encoding, batch, position)
                if rest is None:
                    return None
                recent[-1] = rest
                recent.reverse()
                joined = join(self.encoding, recent)
                return Batch(position, self.position, joined.body, known, self.closed)
        return None

    def expect(self, news: News) -> None:
        """Keeps what has come too early: the log is being read up to where it will fit."""
        self.wanted = max(self.wanted, news.last)
        size = 0 if news.body is None else len(news.body)
        if news.body is not None and len(self.early) < EARLY and size <= RING_BYTES // EARLY:
            self.early.append(news)

    def due(self) -> News | None:
        """What came early and fits now. What does not fit, nor ever will, is forgotten."""
        assert self.position is not None
        while self.early and self.early[0].first <= self.position:
            del self.early[0]
        if self.early and self.early[0].first == self.position + 1:
            return self.early.pop(0)
        return None

    def finish(self) -> None:
        """The stream is not there any more: every follower ends, and learns why when it asks again."""
        self.ended = True
        self.early.clear()
        for follower in (*self.direct, *self.waiting):
            follower.end()

    def _remember(self, batch: Batch) -> None:
        if batch.empty:
            return
        size = len(batch.body)
        if size > RING_BYTES:
            batch = _end_of(self.encoding, batch)
            size = len(batch.body)
            self.ring.clear()  # nothing there goes up to where this one begins now
            self.ring_bytes = 0
        self.ring.append(batch)
        self.ring_bytes += size
        while self.ring_bytes > RING_BYTES or len(self.ring) > RING_BATCHES:  # what is too large goes too
            self.ring_bytes -= len(self.ring.pop(0).body)


def _end_of(encoding: Encoding, batch: Batch) -> Batch:
    """The last events of a batch that is too large to remember; the batch itself, if nobody knows where they begin."""
    start, room = batch.end, RING_BYTES
    for length in reversed(batch.lengths or ()):
        room -= length + 1
        if room < 0:
            break
        start -= 1
    return after(encoding, batch, start) or batch
