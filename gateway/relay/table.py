"""The rows that fit a request by its method and URL, in the order in which they stand. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gateway.asgi import Headers
from gateway.relay.patterns import Pattern
from gateway.relay.rows import Row


class Fit(NamedTuple):
    """A row, and what the placeholders of its pattern stand for."""

    row: Row
    path: Mapping[str, str]


class Table:
    """The rows, asked for each request that is not for the gateway itself."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self.named = {row.name: row for row in rows}
        self._methods = frozenset(pattern.method for row in rows for pattern in (*row.start, *row.resume, *_stop(row)))

    def concerns(self, method: str) -> bool:
        """Whether any row is for requests of this method."""
        return method in self._methods

    def starts(self, method: str, raw_path: str, query: Mapping[str, str]) -> list[Fit]:
        """The rows that may record the answer."""
        return self._fits([(row, row.start) for row in self.rows], method, raw_path, query)

    def stops(self, method: str, raw_path: str, query: Mapping[str, str]) -> list[Fit]:
        """The rows of which this may stop a run."""
        return self._fits([(row, _stop(row)) for row in self.rows], method, raw_path, query)

    def resumes(self, method: str, raw_path: str, query: Mapping[str, str], headers: Headers) -> list[Fit]:
        """The rows of which this may come back to a run. A pattern that fits every path is only for those who say that
        they want an event stream: of each other request the database would be asked in vain.
        """
        whole = _wants_events(headers)
        ways = [(row, tuple(way for way in row.resume if way.whole is None or whole)) for row in self.rows]
        return self._fits(ways, method, raw_path, query)

    def _fits(
        self, ways: list[tuple[Row, tuple[Pattern, ...]]], method: str, raw_path: str, query: Mapping[str, str]
    ) -> list[Fit]:
        fits: list[Fit] = []
        for row, patterns in ways:
            for pattern in patterns:
                found = pattern.match(method, raw_path, query)
                if found is not None:
                    fits.append(Fit(row, found))
                    break
        return fits


def _stop(row: Row) -> tuple[Pattern, ...]:
    return () if row.stop is None else (row.stop,)


def _wants_events(headers: Headers) -> bool:
    return any(
        name == b"last-event-id" or (name == b"accept" and b"text/event-stream" in value.lower())
        for name, value in headers
    )
