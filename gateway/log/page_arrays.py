"""Events that come in numbers, as the pages that run_gateway.add_pages takes: for Postgres, one row instead of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.log.housekeeping import PAGE_BYTES, PAGE_EVENTS

MANY: Final = 64  # events that are a page: each takes a reader's backend as long as some 70 rows do

LARGE: Final = 1 << 20
"""Bytes of events from which on the driver is given them in one piece, and each step before that is a turn of the loop.
The driver has to copy all of a statement at once, twice, and the pieces of an array three times."""


@dataclass(slots=True)
class Pages:
    """The parallel arrays of add_pages: at which event of which entry each page begins, how many it holds, its body.

    `lengths`: the bytes of each event, page after page.
    """

    entries: list[int] = field(default_factory=list)
    ordinals: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def add(self, entry: int, body: bytes, lengths: list[int], gap: int) -> None:
        """The events of an entry: their body, the bytes of each, and those that stand between two."""
        start = 0
        for first, end in _cuts(lengths):
            self.entries.append(entry)
            self.ordinals.append(first + 1)
            self.counts.append(end - first)
            if end - first == len(lengths):
                self.bodies.append(body)
            else:
                size = sum(lengths[first:end]) + gap * (end - first - 1)
                self.bodies.append(body[start : start + size])
                start += size + gap
        self.lengths += lengths

    def arguments(self) -> list[list[int] | list[bytes] | None]:
        """The arguments of the call; NULL where there is no page."""
        return [self.entries or None, *self.of_one()]

    def of_one(self) -> list[list[int] | list[bytes] | None]:
        """The arguments where there is one entry only."""
        if not self.entries:
            return [None] * 4
        return [self.ordinals, self.counts, self.bodies, self.lengths]


def _cuts(lengths: list[int]) -> Iterator[tuple[int, int]]:
    """The places where pages begin and end that are no larger than packed ones."""
    if len(lengths) <= PAGE_EVENTS and sum(lengths) <= PAGE_BYTES:
        yield 0, len(lengths)
        return
    first = size = 0
    for n, length in enumerate(lengths):
        if n > first and (n - first == PAGE_EVENTS or size + length > PAGE_BYTES):
            yield first, n
            first, size = n, 0
        size += length
    yield first, len(lengths)


def in_one(pieces: Sequence[bytes]) -> tuple[bytes, list[int]]:
    """What run_gateway.cut takes pieces from, and the bytes of each."""
    return b"".join(pieces), list(map(len, pieces))
