"""Limits of what one request may ask of this Machine, and how many live readers it has room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.counting import Inside
from gateway.http.bodies import Bodies
from gateway.http.folding import Folding
from gateway.protocol.errors import EventTooLarge
from gateway.quotas import Share
from gateway.wire.outflow import Outflow


class LiveReaders:
    """The SSE responses and long-polls that are open here, whichever log they read. At most `limit` of them begin.

    `many`: those of them that follow many streams, `most_followed` all together, or the list of runs.
    """

    def __init__(self, limit: int, most_followed: int = 100_000) -> None:
        self.limit: Final = limit
        self.most_followed: Final = most_followed
        self.followed = 0  # streams, by those that follow many
        self.sse = Inside()
        self.long_polls = Inside()
        self.many = Inside()

    @property
    def full(self) -> bool:
        """True if there is no room for one more. Open readers stay (law 8)."""
        return self.sse.count + self.long_polls.count + self.many.count >= self.limit


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of requests: timeouts in seconds, sizes in bytes; None is no limit.

    `pages`: pages of the log, kept in memory while several readers read a long run, and `compressed`: their bytes as
    they are sent in a content coding. `readers`: all live readers.
    `streams`: the live readers of each credential. `bodies`: bodies that are arriving. `folding`: folds
    that are being made. `outflow`: answers that wait for their clients.
    """

    max_body: int
    long_poll_timeout: float
    sse_max_age: float
    pages: int = 8 << 20
    compressed: int = 4 << 20
    max_batch: int | None = None  # events of one request
    max_event: int | None = None
    readers: LiveReaders = field(default_factory=lambda: LiveReaders(10_000))
    streams: Share | None = None
    bodies: Bodies = field(default_factory=lambda: Bodies(64 << 20))
    folding: Folding = field(default_factory=Folding)
    outflow: Outflow = field(default_factory=Outflow)

    def check(self, events: Sequence[bytes]) -> None:
        """Checks the size of events to be appended. Raises EventTooLarge."""
        if self.max_event is not None and max(map(len, events), default=0) > self.max_event:
            raise EventTooLarge(f"At most {self.max_event} bytes.")
