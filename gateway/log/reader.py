"""Pages of the log: one statement each, so that rows and "closed" are one snapshot (laws 3 and 4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, cast

import asyncpg

from gateway.log.database import Database
from gateway.log.turns import Turns
from gateway.protocol.batch import Batch, Encoding, Page, Stream
from gateway.protocol.errors import NotWritable, OffsetGone, StreamGone, StreamNotFound, TooManyReads, Unavailable
from gateway.protocol.target import tenant_of

LIVE_PAGE: Final = 64 << 10  # bytes: a page is written at once, so a slow reader may keep as much in memory

_PAGE = """
    SELECT id, content_type, tail, closed, gone, ttl, start, until, same, lengths,
           CASE WHEN source IS NOT NULL THEN run_gateway.piece(source, packed, after, until, separator) END AS piece,
           CASE WHEN $9::bigint IS NOT NULL AND after = start AND lower(content_type) LIKE 'text/%'
                THEN run_gateway.edge(id, run_gateway.number(start)) END AS before,
           CASE WHEN $5 AND ttl IS NOT NULL AND after = start THEN run_gateway.touch(ARRAY[$1]) END
      FROM run_gateway.find_page($1, $2, $3, $4, $6, $7, $8, $9)
"""
_STAT = """
    SELECT id, content_type, run_gateway.marked(tail, breaks) AS tail, closed, gone, ttl, expires_header
      FROM run_gateway.streams_at(ARRAY[$1])
"""
_STREAMS = """
    SELECT path, id, content_type, run_gateway.marked(tail, breaks) AS tail, closed, gone, ttl
      FROM run_gateway.streams_at($1)
"""
_POSITIONS = """
    SELECT path, id, run_gateway.marked(tail, breaks) AS tail, closed FROM run_gateway.streams_at($1) WHERE NOT gone
"""

_MISSING = """
    SELECT count(*) AS streams, coalesce(sum(m.events), 0)::bigint AS events
      FROM (SELECT run_gateway.number(w.position) - CASE WHEN s.id IS NULL THEN 0
                       ELSE run_gateway.shared(w.position, s.tail, s.breaks) END AS events
              FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS w(path, id, position)
              LEFT JOIN run_gateway.streams s ON s.path = w.path AND s.id = w.id) m
     WHERE m.events > 0
"""


class Reader:
    """Reads of the log. Every method is one round trip and raises Unavailable when there is no database.

    `most` pages are read at one time: a stampede of readers waits its turn, for `patience` seconds each, and leaves the
    rest of the pool to others. Turns go round by tenant. While it is `crowded` where pages go to, all are small.
    """

    def __init__(
        self,
        database: Database,
        *,
        page_bytes: int,
        most: int = 4,
        patience: float = 10,
        crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._page_bytes = page_bytes
        self._turns = Turns(most)
        self._patience = patience
        self._crowded = crowded
        self.reads = 0
        self.gone = 0  # reads from positions that the log does not have (any more)

    async def read(
        self,
        path: str,
        position: int,
        *,
        last_events: int | None = None,
        touch: bool = True,
        known: Page | None = None,
    ) -> Page:
        """The page after `position`, or one that begins at most `last_events` before the tail.

        Holds about `page_bytes`, and at least one event when there is one. Slides a TTL unless told not to. `known`: a
        page that was read from `position` before. If its events are still the right answer, they are taken from it and
        not sent again. Raises StreamNotFound, StreamGone, OffsetGone.
        """
        full = known and not known.batch.up_to_date
        args = (known.stream.id, known.batch.end, full) if known else (None, None, None)
        rows = await self._rows(path, position, last_events, self._page_bytes, touch, *args, None)
        return _page(path, rows, known)

    async def live(
        self, path: str, position: int, *, last_events: int | None = None, recent: int = 0, touch: bool = True
    ) -> Page:
        """A page for those who go on to follow: smaller, and with the lengths of its events.

        One that is close to the tail begins up to `recent` bytes before `position`, for others a little behind.
        Raises StreamNotFound, StreamGone, OffsetGone.
        """
        most = min(self._page_bytes, LIVE_PAGE)
        return _page(path, await self._rows(path, position, last_events, most, touch, None, None, None, recent))

    async def _rows(self, path: str, *args: object) -> list[asyncpg.Record]:
        """The pieces of a page, in order. Each row also describes the stream."""
        self.reads += 1
        try:
            rows = await self._fetch(path, *args)
        except NotWritable:  # no TTL slides while the database takes no writes, but what is there can be read
            position, last_events, most, _, *rest = args
            rows = await self._fetch(path, position, last_events, most, False, *rest)
        if not rows:
            raise StreamNotFound
        if rows[0]["gone"]:
            raise StreamGone
        if rows[0]["start"] is None:
            if rows[0]["until"] is None:
                raise Unavailable("This is a standby, which does not have as much of the stream yet.")
            self.gone += 1
            raise OffsetGone(rows[0]["until"])
        return rows

    async def _fetch(self, path: str, *args: object) -> list[asyncpg.Record]:
        async with self._turn(path), self._database.acquire(tenant_of(path)) as connection:
            if self._crowded():  # by now: it may have waited for its turn
                position, last_events, most, *rest, recent = args
                args = (position, last_events, min(cast("int", most), LIVE_PAGE), *rest, recent or 0)
            return await connection.fetch(_PAGE, path, *args)

    @asynccontextmanager
    async def _turn(self, path: str) -> AsyncIterator[None]:
        """Lasts for one read of this stream. Raises TooManyReads."""
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.take(tenant_of(path))
        except TimeoutError:
            raise TooManyReads from None
        try:
            yield
        finally:
            self._turns.give_back()

    async def stat(self, path: str) -> Stream:
        """The stream alone. Raises StreamNotFound, StreamGone."""
        async with self._turn(path), self._database.acquire(tenant_of(path)) as connection:
            row = await connection.fetchrow(_STAT, path)
        if row is None:
            raise StreamNotFound
        if row["gone"]:
            raise StreamGone
        return Stream(
            row["id"],
            path,
            row["content_type"],
            row["tail"],
            row["closed"],
            row["ttl"],
            row["expires_header"],
        )

    async def streams(self, paths: Iterable[str]) -> dict[str, Stream | None]:
        """The streams at these paths, where there are any; None: it was deleted, and its forks still need it."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_STREAMS, list(paths))
        return {row["path"]: None if row["gone"] else _stream(row, row["path"]) for row in rows}

    async def positions(self, paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        """Id, tail and closed of those streams that exist: what the sweep compares its tails with."""
        async with self._database.acquire() as connection:
            rows = await connection.fetch(_POSITIONS, list(paths))
        return {row["path"]: (row["id"], row["tail"], row["closed"]) for row in rows}

    async def missing(self, shown: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
        """Counts what the log lacks of streams that were shown, each with its id and a position that was read: the
        streams that lack something, and the events.
        """
        ids, positions = zip(*shown.values(), strict=True) if shown else ((), ())
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_MISSING, list(shown), list(ids), list(positions))
        assert row is not None, "an aggregate is one row"
        return row["streams"], row["events"]

    async def touch(self, paths: Iterable[str]) -> None:
        """Slides the TTL of streams that are being followed (§5.1)."""
        with suppress(NotWritable):  # then nothing expires either
            async with self._database.acquire() as connection:
                await connection.execute("SELECT run_gateway.touch($1)", list(paths))


def _page(path: str, rows: list[asyncpg.Record], known: Page | None = None) -> Page:
    row, until = rows[0], rows[-1]["until"]
    stream = _stream(row, path)
    if known is not None and row["same"]:
        body = known.batch.body
    else:
        separator = b"," if stream.encoding is Encoding.JSON else b""
        body = separator.join([piece for each in rows if (piece := each["piece"])])
    lengths = row["lengths"] if len(rows) == 1 else [each for some in rows for each in some["lengths"] or ()] or None
    at_tail = until >= stream.tail
    before = row["before"] or b""
    batch = Batch(row["start"], until, body, at_tail, at_tail and stream.closed, lengths, before=before)
    if known is not None and row["same"] and batch == known.batch:
        batch = known.batch  # with what was made of it, as a fold
    return Page(stream, batch)


def _stream(row: asyncpg.Record, path: str) -> Stream:
    return Stream(row["id"], path, row["content_type"], row["tail"], row["closed"], row["ttl"])
