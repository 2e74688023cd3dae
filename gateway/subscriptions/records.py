"""Values that the files of this room pass to one another: a subscription, a claim, a delivery, each at one moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from gateway.protocol.offset import format_offset
from gateway.protocol.target import without
from gateway.subscriptions.glob import Glob

Type = Literal["webhook", "pull-wake"]

EACH: Final = 100  # bytes that a link, or a pattern, counts for where work is weighed (`gateway.tasks.in_turns`)


@dataclass(frozen=True, slots=True)
class Link:
    """A stream of a subscription, at one moment. `acked` -1: before the first event.

    `stream` is the stream's id, which tells it from another one at its path; None where there is none yet, or it does
    not matter.
    """

    path: str
    explicit: bool
    acked: int
    tail: int
    pending: bool
    stream: int | None = None

    def cursor(self) -> dict[str, Any]:
        """The link as §6.3 shows it."""
        return {
            "path": without(self.path),
            "link_type": "explicit" if self.explicit else "glob",
            "acked_offset": _offset(self.acked),
        }

    def work(self) -> dict[str, Any]:
        """The link as §7.1 and §7.2 show it."""
        return {**self.cursor(), "tail_offset": _offset(self.tail), "has_pending": self.pending}


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription. `links`: at most as many as one answer lists. `failing`: a delivery or wake waits for its retry.
    `wake_error`: why the last wake could not be written to the wake stream.
    """

    id: str
    type: Type
    pattern: str | None
    webhook_url: str | None
    wake_stream: str | None
    lease_ttl_ms: int
    description: str | None
    created_at: datetime
    failing: bool
    wake_error: str | None
    links: Sequence[Link]


@dataclass(frozen=True, slots=True)
class Claim:
    """A wake that a worker has claimed."""

    wake_id: str
    generation: int
    lease_ttl_ms: int
    links: Sequence[Link]


@dataclass(frozen=True, slots=True)
class Wakes:
    """The outcome of waking many. `held`: subscriptions whose rows another transaction holds, or their wake stream's.
    `late`: the rest.
    """

    woken: int
    held: Sequence[int]
    late: Sequence[int]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook's wake that this Machine is to deliver, once. `failures`: attempts that have failed before."""

    subscription: int
    id: str
    url: str
    wake_id: str
    generation: int
    failures: int
    links: Sequence[Link]


@dataclass(frozen=True, slots=True)
class Interest:
    """The paths and patterns that are subscribed to. `crowded`: tenants with too many explicit paths to list; each of
    their paths may be one.
    """

    version: int
    subscriptions: int
    globs: Mapping[str, Sequence[Glob]]  # by tenant
    explicit: frozenset[str]
    crowded: frozenset[str] = frozenset()


def _offset(position: int) -> str:
    return "-1" if position < 0 else format_offset(position).decode()
