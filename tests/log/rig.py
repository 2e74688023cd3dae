"""A log for tests: the writer, reader and lifecycle of one Machine over a database, and what they tell others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import asyncpg

from gateway.feed import Feed
from gateway.log.appends import Appended
from gateway.log.database import Database
from gateway.log.housekeeping import Housekeeping
from gateway.log.lifecycle import Created, Lifecycle
from gateway.log.reader import Reader
from gateway.log.writer import Writer
from gateway.protocol.append import AppendRequest, Producer
from gateway.protocol.batch import News
from gateway.protocol.create import CreateRequest, Fork
from gateway.tasks import in_turns

JSON = "application/json"


@dataclass
class Others:
    """Other Machines: see `gateway.log.writer`."""

    notified_by: str | None = None
    together: bool = False


@dataclass
class Log:
    """One Machine's way to the log. `news` is what its own readers heard, `doubts` what it could not know."""

    database: Database
    writer: Writer
    reader: Reader
    lifecycle: Lifecycle
    housekeeping: Housekeeping
    feed: Feed
    news: list[News] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    async def create(
        self,
        path: str,
        type: str | None = JSON,
        *,
        ttl: int | None = None,
        closed: bool = False,
        fork: Fork | None = None,
        body: bytes = b"",
    ) -> Created:
        request = CreateRequest(path, type, ttl, None, None, closed, fork, body)
        events = await in_turns(request.events_in_pieces(type or JSON))
        return await self.lifecycle.create(replace(request, events=events))

    async def append(
        self,
        path: str,
        *events: bytes,
        type: str = JSON,
        close: bool = False,
        stream_seq: str | None = None,
        producer: Producer | None = None,
    ) -> Appended:
        media = type if events else None
        return await self.writer.append(AppendRequest(path, media, list(events), close, stream_seq, producer))

    async def content(self, path: str, position: int = 0) -> bytes:
        """Everything after a position, page by page."""
        parts: list[bytes] = []
        while True:
            page = await self.reader.read(path, position)
            assert page.batch.start == position
            if not page.batch.empty:
                parts.append(page.batch.body)
            if page.batch.up_to_date:
                assert page.batch.end == page.stream.tail
                return (b"," if page.stream.content_type == JSON else b"").join(parts)
            assert page.batch.end > position
            position = page.batch.end


@asynccontextmanager
async def opened(
    url: str,
    *,
    machine: str = "m1",
    lanes: int = 2,
    timeout: float = 30,
    max_pending: int = 1 << 20,
    page_bytes: int = 1 << 20,
    pool: int = 4,
    pack: bool = True,
    together: bool = False,
) -> AsyncIterator[Log]:
    """A Log over a migrated database; closing it waits for what its writer took."""
    database = Database(url, pool_size=pool, statement_timeout=30)
    await database.open()
    news: list[News] = []
    doubts: list[str] = []
    feed = Feed()
    feed.committed.subscribe(news.append)
    feed.doubted.subscribe(doubts.extend)
    writer = Writer(
        database,
        others=Others(machine, together),
        lanes=lanes,
        timeout=timeout,
        max_pending=max_pending,
        pack=pack,
        feed=feed,
    )
    log = Log(
        database,
        writer,
        Reader(database, page_bytes=page_bytes),
        Lifecycle(database, machine=machine, pack=pack),
        Housekeeping(database, machine=machine, interval=1),
        feed,
        news,
        doubts,
    )
    try:
        yield log
    finally:
        await writer.close()
        await database.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the test's own, to look behind the log and to get in its way."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def until_blocked(connection: asyncpg.Connection[asyncpg.Record], count: int = 1) -> None:
    """Waits until so many backends of this database wait for a lock that somebody holds."""
    async with asyncio.timeout(60):
        while count > await connection.fetchval(  # noqa: ASYNC110  Postgres tells nobody when a backend waits
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.005)


@asynccontextmanager
async def holding(url: str, *paths: str) -> AsyncIterator[None]:
    """An open transaction in front of these streams' rows, which does nothing else."""
    async with connected(url) as idle, idle.transaction():
        await idle.execute("SELECT FROM run_gateway.streams WHERE path = ANY ($1) FOR UPDATE", paths)
        yield
