"""Reads near this Machine: at the replica, where it shows what a reader may expect, and else at the primary.

What the replica does not have, what is gone, and whatever fails there is asked of the primary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import asyncpg

from gateway.log.lists import Lists
from gateway.log.reader import Reader
from gateway.log.replica import Replica
from gateway.protocol.batch import Page
from gateway.protocol.errors import (
    ListTooSlow,
    OffsetGone,
    StreamGone,
    StreamNotFound,
    TooManyLists,
    TooManyReads,
    Unavailable,
)
from gateway.protocol.target import tenant_of

_FINAL: Final = (TooManyReads, TooManyLists, ListTooSlow)  # refusals that hold at both servers


class Near:
    """Reads of pages, records and lists, which `reads` counts by where they were made.

    `reader` asks the primary; `lists` and `there` ask the replica.
    """

    def __init__(self, replica: Replica, reader: Reader, there: Reader, lists: Lists) -> None:
        self.reads = Counter[str](replica=0, primary=0)
        self.replica = replica
        self._reader = reader
        self.there = there
        self._lists = lists

    async def read(
        self, path: str, position: int, *, last_events: int | None = None, known: Page | None = None
    ) -> Page:
        """As `Reader.read`."""
        return await self._page(
            lambda: self.there.read(path, position, last_events=last_events, touch=False, known=known),
            lambda: self._reader.read(path, position, last_events=last_events, known=known),
        )

    async def live(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page:
        """As `Reader.live`."""
        return await self._page(
            lambda: self.there.live(path, position, last_events=last_events, recent=recent, touch=False),
            lambda: self._reader.live(path, position, last_events=last_events, recent=recent),
        )

    async def fresh(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page:
        """As `Reader.live`, from the primary."""
        page = await self._reader.live(path, position, last_events=last_events, recent=recent)
        return self._shown(page)

    async def row(self, path: str, statement: str, lacks: Callable[[asyncpg.Record], bool]) -> asyncpg.Record | None:
        """The row of the stream at a path, by this statement; None: the primary has to be asked."""
        row = None
        with suppress(Unavailable):
            async with self.replica.acquire(tenant_of(path)) as connection:
                row = await connection.fetchrow(statement, path)
        if row is not None and lacks(row):
            row = None
        self._count(row is not None)
        return row

    async def list(self, tenant: str, statement: str, *arguments: object) -> list[asyncpg.Record] | None:
        """The rows of a page of a tenant's runs; None: the primary has to be asked.

        Raises TooManyLists, ListTooSlow.
        """
        rows = None
        if self.replica.used:
            behind = self.replica.watermarks.exceed_list(tenant)
            first = partial(self.replica.catch_up, tenant) if behind else None
            try:
                rows = await self._lists.fetch(tenant, statement, *arguments, first=first)
            except _FINAL:
                raise
            except Unavailable:
                pass
        self._count(rows is not None)
        return rows

    async def _page(self, there: Callable[[], Awaitable[Page]], here: Callable[[], Awaitable[Page]]) -> Page:
        page, switches = None, self.replica.primary.switches
        try:
            page = await there()
        except _FINAL:
            raise
        except (Unavailable, StreamNotFound, StreamGone, OffsetGone):
            pass
        near = page is not None and not self.replica.lacks(page.stream)
        self._count(near)
        if page is not None and near:
            return self._shown(page)
        try:
            return self._shown(await here())
        except OffsetGone:
            # A replica may show a commit a moment before the primary does, which is no loss.
            if page is None or (await self._reader.stat(page.stream.path)).id != page.stream.id:
                raise
            if self.replica.primary.switches != switches:
                raise
            return self._shown(page)

    def _shown(self, page: Page) -> Page:
        stream = page.stream
        self.replica.watermarks.seen(stream.path, stream.tail, stream.closed, stream.id)
        return page

    def _count(self, near: bool) -> None:
        self.reads["replica" if near else "primary"] += 1
