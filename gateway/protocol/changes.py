"""Where the reader of a live list stands: what it was told, so that it goes on there at any Machine.

Changes have no numbers: transactions do not commit in the order of any number that they are given (law 5). Instead each
change has its transaction, and what a reader was standing is a snapshot of Postgres (pg_current_snapshot): all that had
been committed by then. What that does not see has come since, also if its transaction is the older one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

from gateway.protocol import base64url
from gateway.protocol.composite import varint, varints

Kind = Literal["created", "cancelled", "ended", "removed"]
KINDS: Final[tuple[Kind, ...]] = ("created", "cancelled", "ended", "removed")

KEPT: Final = 3600
"""Seconds for which it is known that a run was removed, and so how old what a reader was told may be."""

_DIGEST: Final = 4  # bytes
_MOST_RUNNING: Final = 10_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The transactions before number `end` that had been committed: all but those that were `running`."""

    end: int
    running: frozenset[int] = frozenset()

    @staticmethod
    def of(text: str) -> Snapshot:
        """The snapshot that Postgres writes as `xmin:xmax:xip,…`."""
        _, end, running = text.split(":")
        return Snapshot(int(end), frozenset(map(int, running.split(","))) if running else frozenset())

    def __str__(self) -> str:
        first = min(self.running, default=self.end)
        return f"{first}:{self.end}:{','.join(map(str, sorted(self.running)))}"

    def sees(self, transaction: int) -> bool:
        return transaction < self.end and transaction not in self.running

    def includes(self, other: Snapshot) -> bool:
        """True if it sees all that another one of the same server sees."""
        return other.end <= self.end and all(each >= other.end or each in other.running for each in self.running)

    def numbers(self) -> list[int]:
        at, written = self.end, [self.end, len(self.running)]
        for each in sorted(self.running, reverse=True):
            written.append(at - each)
            at = each
        return written


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a reader stands: it was told all that `base` sees; and of what `upto` sees, the changes of streams up to
    `stream`.

    `epoch`: of the log (offset.py), since another server has other transactions. `at`: when, in seconds since 1970 by
    the database's clock.
    """

    epoch: int
    at: int
    base: Snapshot
    upto: Snapshot | None = None
    stream: int = 0

    def knows(self, stream: int, transaction: int) -> bool:
        return self.base.sees(transaction) or (
            self.upto is not None and stream <= self.stream and self.upto.sees(transaction)
        )

    def is_good(self, epoch: int, now: int) -> bool:
        """True if all that has come since can still be told."""
        return self.epoch == epoch and now - KEPT < self.at <= now + KEPT

    def numbers(self) -> list[int]:
        """The numbers that `standing_of` reads."""
        rest = [] if self.upto is None else [*self.upto.numbers(), self.stream]
        return [self.epoch, self.at, *self.base.numbers(), *rest]

    def to_bytes(self, of: bytes) -> bytes:
        """Writes it as an `id:`, for the list whose digest is `of`."""
        return base64url.encode(of + b"".join(map(varint, self.numbers()))).encode()


def digest(query: Iterable[str]) -> bytes:
    """The digest that an id is bound to: of the filters of the list."""
    return sha256("\n".join(query).encode()).digest()[:_DIGEST]


def parse_standing(text: bytes, of: bytes) -> Standing | None:
    """Parses what `Standing.to_bytes` wrote; None: it is none of this list."""
    try:
        data = base64url.decode(text.decode("ascii"))
        if data[:_DIGEST] != of:
            return None
        return standing_of(varints(data[_DIGEST:]))
    except ValueError:
        return None


def standing_of(numbers: list[int]) -> Standing | None:
    """The standing with these numbers; None: there is none."""
    try:
        epoch, at, *rest = numbers
        base, rest = _snapshot(rest)
        if not rest:
            return Standing(epoch, at, base)
        upto, rest = _snapshot(rest)
        (stream,) = rest
        return Standing(epoch, at, base, upto, stream)
    except (ValueError, IndexError):
        return None


def _snapshot(numbers: list[int]) -> tuple[Snapshot, list[int]]:
    end, count, *rest = numbers
    if count > min(_MOST_RUNNING, len(rest)) or end >= 2**63:
        raise ValueError("no such snapshot")
    running, at = set[int](), end
    for step in rest[:count]:
        at -= step
        if at < 0:
            raise ValueError("no such transaction")
        running.add(at)
    return Snapshot(end, frozenset(running)), rest[count:]
