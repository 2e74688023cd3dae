"""Flue's event streams, to be read by hub, followers and routes just as `gateway.log.reader` is.

Each read is one statement, so "closed", the tail and the rows are one snapshot (laws 3 and 4). Flue's row lock makes
the order of its sequence numbers that of their commits, and its rows never change. Nothing is written here. The
tables are found by the search path, as Flue itself finds them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import asyncpg

from gateway.flue.errors import NoSuchRun
from gateway.flue.news import one_line
from gateway.flue.readable import Readable
from gateway.log.database import Database
from gateway.protocol.batch import JSON_TYPE, Batch, Page, Stream

PAGE: Final = 100  # events: Flue's own pages
LIVE_PAGE: Final = 256 << 10  # bytes, which a slow reader may hold in memory, since a page is written at once
ID: Final = 0  # of all: Flue's streams have no identity but their path, and the gateway's own count from 1

# The run, its stream, and a page of its events from `start`: the position asked for, or so many events before the
# tail, or, close to the tail, up to `recent` bytes earlier. The page holds the events that fit, and at least one;
# `more` tells whether others follow. Of a page that is the `same` as a known one the events are not read again.
_PAGE: Final = """
WITH asked (run_id, path, position, last_events, events, bytes, known_end, known_full, recent) AS (VALUES (
    $1::text, $2::text, $3::bigint, $4::bigint, $5::bigint, $6::bigint, $7::bigint, $8::boolean, $9::bigint))
SELECT r.workflow_name, s.next_offset, s.closed, p.start, k.same, e.body, e.last, e.found, e.lengths, e.more
  FROM asked a
  JOIN flue_runs r USING (run_id)
  LEFT JOIN flue_event_streams s USING (path)
 CROSS JOIN LATERAL (
    SELECT CASE WHEN a.last_events IS NULL THEN a.position
                ELSE greatest(s.next_offset - a.last_events, 0) END AS first) f
 CROSS JOIN LATERAL (
    SELECT CASE WHEN a.recent > 0 AND s.next_offset - f.first BETWEEN 0 AND a.events THEN (
        SELECT coalesce(min(w.seq), f.first)
          FROM (SELECT v.seq, sum(octet_length(v.data)) OVER (ORDER BY v.seq DESC) AS size
                  FROM flue_event_stream_entries v
                 WHERE v.path = a.path AND v.seq < f.first AND v.seq >= f.first - 64) w
         WHERE w.size <= a.recent) ELSE f.first END AS start) p
 CROSS JOIN LATERAL (
    SELECT coalesce(
        a.known_end = s.next_offset OR (a.known_full AND a.known_end < s.next_offset), false) AS same) k
 CROSS JOIN LATERAL (
    SELECT string_agg(w.data, ',' ORDER BY w.seq) FILTER (WHERE w.fits) AS body,
           max(w.seq) FILTER (WHERE w.fits) AS last,
           count(*) FILTER (WHERE w.fits) AS found,
           array_agg(octet_length(w.data) ORDER BY w.seq) FILTER (WHERE w.fits AND a.recent IS NOT NULL) AS lengths,
           coalesce(bool_or(NOT w.fits), false) AS more
      FROM (SELECT v.seq, v.data,
                   v.n <= a.events + f.first - p.start
                   AND sum(octet_length(v.data)) OVER (ORDER BY v.seq) - octet_length(v.data)
                       < a.bytes + coalesce(a.recent, 0) AS fits
              FROM (SELECT x.seq, convert_to(x.data, 'UTF8') AS data, row_number() OVER (ORDER BY x.seq) AS n
                      FROM flue_event_stream_entries x
                     WHERE x.path = a.path AND x.seq >= p.start AND x.seq < s.next_offset AND NOT k.same
                     ORDER BY x.seq LIMIT a.events + 65) v) w) e
"""
_STAT: Final = """
    SELECT r.workflow_name, s.next_offset, s.closed
      FROM flue_runs r LEFT JOIN flue_event_streams s ON s.path = $2 WHERE r.run_id = $1
"""
_WORKFLOW: Final = "SELECT workflow_name FROM flue_runs WHERE run_id = $1"
_POSITIONS: Final = "SELECT path, next_offset, closed FROM flue_event_streams WHERE path = ANY ($1)"


class Source:
    """Reads of Flue's tables. Every method is one round trip and raises Unavailable when there is no database.

    A run whose workflow is not `readable` does not exist here.
    """

    def __init__(self, database: Database, *, page_bytes: int, readable: Readable) -> None:
        self._database = database
        self._page_bytes = page_bytes
        self._readable = readable
        self.reads = 0

    async def read(
        self, path: str, position: int, *, last_events: int | None = None, known: Page | None = None
    ) -> Page:
        """The page after `position`, or one that begins at most `last_events` before the tail.

        `known`: a page that was read from `position` before, whose events need not be sent again. Raises NoSuchRun.
        """
        args = (known.batch.end, not known.batch.up_to_date) if known else (None, None)
        row = await self._page(path, position, last_events, self._page_bytes, *args, None)
        return _page(path, row, position, known)

    async def live(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page:
        """A page for those who go on to follow: smaller, and with the lengths of its events. Raises NoSuchRun."""
        most = min(self._page_bytes, LIVE_PAGE)
        page = _page(path, await self._page(path, position, last_events, most, None, None, recent), position)
        if page.batch.start < position and page.batch.lengths is None:
            # Rows before it are missing, so that its place in these bytes is unknown.
            return _page(path, await self._page(path, position, last_events, most, None, None, 0), position)
        return page

    async def _page(self, path: str, position: int, last_events: int | None, *args: object) -> asyncpg.Record:
        self.reads += 1
        run = path.removeprefix("runs/")
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_PAGE, run, path, position, last_events, PAGE, *args)
        return self._found(run, row)

    async def stat(self, path: str) -> Stream:
        """The stream alone. Raises NoSuchRun."""
        run = path.removeprefix("runs/")
        async with self._database.acquire() as connection:
            row = self._found(run, await connection.fetchrow(_STAT, run, path))
        return Stream(ID, path, JSON_TYPE, row["next_offset"], row["closed"])

    async def find(self, run: str) -> int:
        """Finds such a run that may be read, with or without events: its stream's id. Raises NoSuchRun."""
        async with self._database.acquire() as connection:
            workflow = await connection.fetchval(_WORKFLOW, run)
        if workflow is None or workflow not in self._readable:
            raise NoSuchRun(run)
        return ID

    async def taken(self, run: str) -> bool:
        """True if Flue has a run of this id that may be read here.

        A run that may not be read does not exist here: a refusal of its id would tell that it does.
        """
        async with self._database.acquire() as connection:
            workflow = await connection.fetchval(_WORKFLOW, run)
        return workflow is not None and workflow in self._readable

    async def positions(self, paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        """Id, tail and closed of those streams that exist, with which the sweep compares its tails."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_POSITIONS, list(paths))
        return {row["path"]: (ID, row["next_offset"], row["closed"]) for row in rows}

    async def touch(self, paths: Iterable[str]) -> None:
        """Does nothing: no run of Flue's expires."""

    def _found(self, run: str, row: asyncpg.Record | None) -> asyncpg.Record:
        # For a moment a new run has a record and no stream yet. As in Flue, it does not exist for readers then.
        if row is None or row["next_offset"] is None or row["workflow_name"] not in self._readable:
            raise NoSuchRun(run)
        return row


def _page(path: str, row: asyncpg.Record, position: int, known: Page | None = None) -> Page:
    stream = Stream(ID, path, JSON_TYPE, row["next_offset"], row["closed"])
    if known is not None and row["same"]:
        end = known.batch.end
        at_tail = end >= stream.tail
        return Page(stream, Batch(position, end, known.batch.body, at_tail, at_tail and stream.closed))
    start = row["start"]
    at_tail = not row["more"]
    # The app or an operator may have deleted rows: a reader skips them rather than wait for them.
    end = max(start, stream.tail) if at_tail else row["last"] + 1
    body = one_line(row["body"] or b"")
    lengths = row["lengths"] if row["found"] == end - start else None
    return Page(stream, Batch(start, end, body, at_tail, at_tail and stream.closed, lengths))
