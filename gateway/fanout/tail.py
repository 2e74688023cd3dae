"""The tail of one stream that is followed here: its position, its latest batches, and its followers.

Nothing here awaits, so a follower that compares its position with the tail's, and then joins, cannot miss anything that
comes in between (law 4).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from itertools import chain
from typing import TYPE_CHECKING, Final, Protocol

from gateway.fanout.broadcast import Broadcast
from gateway.fanout.crowd import BEAT, END, WAKE, Crowd, Waiting, tell
from gateway.outage import SeldomLogger
from gateway.protocol import frames
from gateway.protocol.batch import Batch, Encoding, News, Page, Stream, after, join
from gateway.protocol.offset import format_offset
from gateway.protocol.text import edge

if TYPE_CHECKING:
    from gateway.fanout.single_flight import Shared

seldom_logger: Final = SeldomLogger(logging.getLogger("gateway.fanout.tail"))

RING_BYTES: Final = 64 << 10  # of recent batches, for readers that are a little behind
RING_BATCHES: Final = 128
_HEARTBEAT: Final = frames.chunk(frames.HEARTBEAT)
EARLY: Final = 32  # news that may wait for a read that is under way, each of at most RING_BYTES / EARLY bytes


class Form(Protocol):
    """The form of batches for followers that are not given the protocol's frames. Equal forms are written once.

    `heartbeat`: what is sent when nothing was for long; none, if it is empty.
    """

    @property
    def heartbeat(self) -> bytes: ...
    def __call__(self, batch: Batch) -> bytes: ...
    def __hash__(self) -> int: ...


class Tail:
    """Position, recent batches and followers of one stream.

    `position` is None until a read has reached the end of the log. `direct` holds the followers that have
    everything up to `position`, and are written to by `publish` itself; `formed` the same for those that are given
    another form; `waiting` those that are woken, and fetch for themselves.
    """

    __slots__ = (
        "broadcast",
        "closed",
        "cursor_floor",
        "direct",
        "doubted",
        "early",
        "edge",
        "encoding",
        "ended",
        "filling",
        "formed",
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

    def __init__(
        self,
        path: str,
        now: float,
        offset: Callable[[int], bytes] = format_offset,
        broadcast: Broadcast | None = None,
    ) -> None:
        self.path = path
        self.broadcast = broadcast or Broadcast()
        self.offset = offset
        self.stream: Stream | None = None
        self.encoding: Encoding  # there as soon as `stream` is
        self.edge = b""  # of a text stream, the last bytes before `position`
        self.position: int | None = None
        self.closed = False
        self.doubted = False  # another stream may be at its path by now: until a read tells, readers begin from the log
        self.ended = False  # deleted, expired or replaced by another stream: every follower has to go
        self.wanted = 0  # the highest position that any news has named: the log is read up to there
        self.filling = False
        self.heard = 0.0  # when the first of the news came that wait for a read, monotonic seconds; 0: none waits
        self.opening: Shared[Page] | None = None  # the first follower's first read
        self.early: list[News] = []  # news that has come before the read that it goes on from
        self.ring: list[Batch] = []  # no deque: one takes 0.6 kB while it is empty
        self.ring_bytes = 0
        self.direct = Crowd()
        self.formed: dict[Form, Crowd] | None = None  # of most tails there are none

        self.waiting: set[Waiting] = set()
        self.users = 0
        self.cursor_floor = 0
        self.quiet_since = now

    def take(self, stream: Stream) -> None:
        """Takes the stream that the first read has found at this path."""
        self.stream = stream
        self.encoding = stream.encoding

    def publish(self, batch: Batch, cursor: int, now: float, frame: bytes = b"") -> None:
        """Moves the tail by a batch that begins where it stands, and writes the batch to the followers that stand there
        too. `frame`: as it goes to them, where that has been made in pieces.
        """
        assert batch.start == self.position, "a tail never skips (law 3)"
        if self.encoding is Encoding.TEXT:
            batch.before = self.edge
        if self.direct.members and not frame:  # before anything moves: if it cannot be made, nobody was told anything
            frame = frames.chunk(frames.sse(self.encoding, batch, b"%d" % cursor, offset=self.offset))
        formed = self._written(batch) if self.formed else ()
        self._remember(batch)
        if self.encoding is Encoding.TEXT:
            self.edge = edge(self.edge, batch.body)
        self.position = batch.end  # before the writes: a follower that leaves during them was given this batch
        self.closed = batch.closed
        self.quiet_since = now
        if frame:
            self.broadcast(self.direct, frame, batch.start)
        for crowd, data in formed:
            if data:
                self.broadcast(crowd, data, batch.start)
        if self.waiting:
            tell(tuple(self.waiting), WAKE)
        if batch.closed:
            self.direct.end()  # the frame that it was just sent says that the stream is closed
            for crowd, _ in formed:
                tell(tuple(crowd.members), WAKE)  # their responses end as their own way of ending has it

    def frame_in_pieces(self, batch: Batch, cursor: int) -> Generator[None, None, bytes]:
        """The frame of a batch that begins where the tail stands."""
        if self.encoding is Encoding.TEXT:
            batch.before = self.edge
        parts = yield from frames.sse_in_pieces(self.encoding, batch, b"%d" % cursor, offset=self.offset)
        yield
        return frames.chunk(b"".join(parts))

    def beat(self, now: float) -> None:
        """Sends a heartbeat to all followers, since nothing was sent for long: it says that the connection is alive."""
        self.quiet_since = now
        if self.position is not None and not self.direct.sendings:
            self.broadcast(self.direct, _HEARTBEAT, self.position)
        for form, crowd in tuple(self.formed.items()) if self.formed else ():
            if self.position is not None and form.heartbeat and not crowd.sendings:
                self.broadcast(crowd, frames.chunk(form.heartbeat), self.position)
        if self.waiting:
            tell(tuple(self.waiting), BEAT)

    def remembered(self, position: int) -> Page | None:
        """A page of everything after `position`, from memory; None when the log has to be read.

        That is so for a stream with a TTL, since it is a read of the log that prolongs it (§5.1).
        """
        stream = self.stream
        if stream is None or stream.ttl is not None or self.position is None or self.ended:
            return None
        batch = self.since(position)
        return None if batch is None else Page(stream, batch)

    def since(self, position: int) -> Batch | None:
        """The events after `position`, from memory; None when memory does not reach back so far."""
        if self.position is None or position > self.position:
            return None
        up_to_date = self.closed or self.wanted <= self.position  # as far as any news tells
        if position == self.position:
            return Batch(position, position, b"", up_to_date, self.closed)
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
                lengths, before = joined.lengths, joined.before
                return Batch(position, self.position, joined.body, up_to_date, self.closed, lengths, before=before)
        return None

    def expect(self, news: News) -> None:
        """Keeps news that has come too early: the log is being read up to where the news begins."""
        self.wanted = max(self.wanted, news.last)
        size = 0 if news.body is None else len(news.body)
        if news.body is not None and len(self.early) < EARLY and size <= RING_BYTES // EARLY:
            self.early.append(news)

    def due(self) -> News | None:
        """The news that came early and begins where the tail is now, or None. Forgets what is known already."""
        assert self.position is not None
        while self.early and self.early[0].first <= self.position:
            del self.early[0]
        if self.early and self.early[0].first == self.position + 1:
            return self.early.pop(0)
        return None

    def finish(self) -> None:
        """The stream is gone: every follower ends. Its client learns why when it asks again."""
        self.ended = True
        self.early.clear()
        ended: list[Waiting] = [*chain.from_iterable(self.crowds), *self.waiting]
        tell(ended, END)

    @property
    def crowds(self) -> list[Crowd]:
        """The crowds of all followers that are written to."""
        return [self.direct, *self.formed.values()] if self.formed else [self.direct]

    def crowd(self, form: Form | None) -> Crowd:
        """The followers that are given this form; None: the protocol's frames."""
        if form is None:
            return self.direct
        if self.formed is None:
            self.formed = {}
        crowd = self.formed.get(form)
        if crowd is None:
            crowd = self.formed[form] = Crowd()
        return crowd

    def _written(self, batch: Batch) -> list[tuple[Crowd, bytes]]:
        """The frames by crowd, but for the crowd that is given the protocol's own."""
        assert self.formed is not None, "or else there is nobody"
        written = [(crowd, _formed(form, batch, crowd)) for form, crowd in self.formed.items() if crowd.members]
        return [(crowd, data and frames.chunk(data)) for crowd, data in written]

    def _remember(self, batch: Batch) -> None:
        if batch.start == batch.end:
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


def _formed(form: Form, batch: Batch, crowd: Crowd) -> bytes:
    """A batch in a form. A form that raises ends those who are given it, and nobody else misses the batch (law 6)."""
    try:
        return form(batch)
    except Exception:
        seldom_logger.exception(
            "Events could not be written in the form that some readers get; those readers were ended, and resume."
        )
        for follower in tuple(crowd):
            follower.fail()
        return b""


def _end_of(encoding: Encoding, batch: Batch) -> Batch:
    """The last events of a batch, as many as can be remembered; the whole batch, if its events' lengths are unknown."""
    start, room = batch.end, RING_BYTES
    for length in reversed(batch.lengths or ()):
        room -= length + 1
        if room < 0:
            break
        start -= 1
    return after(encoding, batch, start) or batch
