"""What was asked of the log, when, and what it answered: all that the judge knows. No sockets, no SQL.

Times are seconds of the wall clock, for they are compared with those that the database writes into events.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

APPEND, READ, CREATE, DELETE, CANCEL = "append", "read", "create", "delete", "cancel"
APPENDED, DUPLICATE = "appended", "duplicate"
CREATED, FOUND, ABSENT, DELETED = "created", "found", "absent", "deleted"
REFUSED = "refused"  # with an error that says that nothing has changed
UNKNOWN = "unknown"  # whether it happened: the session was killed, or the call cut short

TTL = 1  # seconds, of streams below ttl/
LEASE = 1  # seconds, of runs
KEEP = 1.5  # seconds that a closed stream is kept
LOST_RUN = "lost@"  # begins the name of the event that ends a run for its producer

Claim = tuple[str, int, int]


def ttl_of(path: str) -> float:
    """How long a stream lives without a sign of life."""
    return TTL if path.startswith("ttl/") else math.inf


def is_run(path: str) -> bool:
    return path.startswith("runs/") and not path.endswith("/control")


@dataclass
class Call:
    """One call about one stream. `tail`, `closed`, `given` and the like are what was answered."""

    what: str
    path: str
    began: float
    ended: float = math.inf
    verdict: str = UNKNOWN
    request: int = (
        0  # of an append: its events are <request>.0, <request>.1, …; a retry has the number of the first try
    )
    count: int = 0
    closes: bool = False
    claim: Claim | None = None
    life: float = 0.0  # a sign of life counts from here on at the earliest: a transaction's, from its commit
    held: tuple[float, float] | None = None  # of a transaction: from the append's answer until COMMIT was sent
    lasting: bool = False  # whether it is part of a transaction, which holds the stream's row until it ends
    source: str | None = None  # of a fork
    anchor: int = 0
    touches: bool = False  # whether it is a sign of life
    tail: int = 0
    id: int | None = None  # which stream it was, of those that were at this path one after the other
    start: int = 0
    closed: bool = False
    given: list[str] = field(default_factory=list)
    cancelled: bool | None = None  # whether it says that its run is to stop; None: it does not tell

    @property
    def events(self) -> list[str]:
        return [f"{self.request}.{n}" for n in range(self.count)]

    @property
    def happened(self) -> bool:
        """Or may have."""
        return self.verdict in (APPENDED, CREATED, DELETED, UNKNOWN)

    def end(self, verdict: str) -> None:
        self.verdict = verdict
        self.ended = time.time()


@dataclass(frozen=True)
class Link:
    """Where a subscription stood with one stream, as somebody saw it."""

    began: float
    ended: float
    path: str
    stream: int | None
    acked: int


@dataclass(frozen=True)
class Settled:
    """An ack of a subscription's worker that was accepted, or (`granted`) the lease that it was given."""

    began: float
    ended: float
    generation: int
    granted: bool
    acks: tuple[tuple[str, int], ...] = ()


@dataclass
class History:
    """Calls as they began. `faults` are errors that no caller may see; `errors` counts all, by SQLSTATE."""

    calls: list[Call] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    breaks: list[tuple[float, float]] = field(default_factory=list)  # when nobody looked for ends: from and to
    faults: list[tuple[str, str]] = field(default_factory=list)  # SQLSTATE, and what was called
    errors: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)  # what was called, and housekeeping's rows, by name
    _requests: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def begin(self, what: str, path: str, **asked: Any) -> Call:
        """A call that is being sent now."""
        now = time.time()
        call = Call(what, path, now, life=now, **asked)
        self.calls.append(call)
        self.done[what] += 1
        return call

    def number(self) -> int:
        """Of a new request."""
        return next(self._requests)


def body(event: str, padding: int) -> bytes:
    """An event as it is appended."""
    return json.dumps({"u": event, "p": "x" * padding}).encode()


def name(event: dict[str, Any]) -> str:
    """The event as it is called in the history."""
    if "u" in event:
        return str(event["u"])
    if event.get("type") == "run_end":
        return LOST_RUN + str(event["timestamp"])
    return str(event.get("type"))
