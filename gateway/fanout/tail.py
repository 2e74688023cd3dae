"""The tail of one stream that somebody follows here: where it stands, what was new lately, who is to be told.

Everything here happens between two awaits: a follower that compares its position with the tail's and joins cannot
miss what comes in between (law 4).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from gateway.protocol import frames
from gateway.protocol.batch import Batch, Encoding, Stream, join

if TYPE_CHECKING:
    from gateway.fanout.follower import Follower

RING_BYTES: Final = 64 << 10  # of recent batches, for readers that are a little behind
RING_BATCHES: Final = 128

Write = Callable[[bytes], None]


class Tail:
    """Position, recent batches and followers of one stream.

    `position` is None until a read has reached the end of the log. `direct` holds the followers that stand at
    `position` and are written to by `publish` itself; `waiting` those that are woken and fetch for themselves.
    """

    __slots__ = (
        "closed",
        "cursor_floor",
        "direct",
        "ended",
        "filling",
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

    def __init__(self, path: str, now: float) -> None:
        self.path = path
        self.stream: Stream | None = None
        self.position: int | None = None
        self.closed = False
        self.ended = False  # deleted, expired or replaced by another stream: every follower has to go
        self.wanted = 0  # the highest position that any news has named
        self.filling = False
        self.ring: deque[Batch] = deque()
        self.ring_bytes = 0
        self.direct: dict[Follower, Write] = {}
        self.waiting: set[Follower] = set()
        self.users = 0
        self.cursor_floor = 0
        self.quiet_since = now

    @property
    def encoding(self) -> Encoding:
        assert self.stream is not None, "a tail has a position only after a read"
        return self.stream.encoding

    def publish(self, batch: Batch, cursor: int, now: float) -> None:
        """Moves the tail by a batch that begins where it stands, and writes it to whoever stands there too."""
        assert batch.start == self.position, "a tail never skips (law 3)"
        self.position = batch.end  # before the writes: a follower that has to leave meanwhile was given this batch
        self.closed = batch.closed
        self._remember(batch)
        if self.direct:
            frame = frames.chunk(frames.sse(self.encoding, batch, b"%d" % cursor))
            for write in tuple(self.direct.values()):
                write(frame)
        self.quiet_since = now
        for follower in tuple(self.waiting):
            follower.wake()
        if batch.closed:
            for follower in tuple(self.direct):
                follower.end()  # its last frame said so

    def since(self, position: int) -> Batch | None:
        """Everything after `position`, from memory; None when it is not all there."""
        recent: list[Batch] = []
        for batch in reversed(self.ring):
            recent.append(batch)
            if batch.start <= position:
                if batch.start != position:
                    return None
                recent.reverse()
                return join(self.encoding, recent)
        return None

    def finish(self) -> None:
        """The stream is not there any more: every follower ends, and learns why when it asks again."""
        self.ended = True
        for follower in (*self.direct, *self.waiting):
            follower.end()

    def _remember(self, batch: Batch) -> None:
        if batch.empty:
            return
        self.ring.append(batch)
        self.ring_bytes += len(batch.body)
        while self.ring and (self.ring_bytes > RING_BYTES or len(self.ring) > RING_BATCHES):
            self.ring_bytes -= len(self.ring.popleft().body)
