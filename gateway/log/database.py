"""The way to Postgres: a small pool, and the driver's errors as the protocol's.

A connection is held for one statement at a time, never while a reader waits (law 7).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import asyncpg

from gateway.counting import SECONDS, Histogram
from gateway.protocol.errors import Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[asyncpg.Record]
    Pooled = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_ENOUGH = 4  # connections in a pool that can spare some for writers alone

# What a lost, refused or overloaded database looks like from here.
FAULTS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class LogConnection(Connection):
    """A connection without session state: nothing to reset when it goes back, so no round trip for it."""

    def get_reset_query(self) -> str:
        return ""


class Lane:
    """One connection of the pool, replaced when it has failed or was lost; with `keep`, kept between statements."""

    def __init__(self, database: Database, *, keep: bool) -> None:
        self._database = database
        self._keep = keep
        self._connection: Pooled | None = None

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record:
        """The one row that a statement gives. Raises Unavailable, whose cause says what happened."""
        try:
            connection = self._connection
            if connection is None or connection.is_closed():
                await self.close()
                connection = self._connection = await self._database.take()
            row = await connection.fetchrow(statement, *arguments)
        except FAULTS as error:
            await self.close()
            raise Unavailable from error
        except BaseException:
            await self.close()  # cancelled in the middle: nobody knows what it is doing
            raise
        if not self._keep:
            await self.close()
        assert row is not None, "such a statement gives one row"
        return row

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*FAULTS):  # it has failed already, and that was told
                await self._database.give_back(connection)


class Database:
    """The pool of a Machine. Opened once; `acquire` gives a connection for one statement."""

    def __init__(self, dsn: str, *, pool_size: int, statement_timeout: float) -> None:
        self.waits = Histogram(SECONDS)  # for a connection of the pool, new ones' opening included
        self._dsn = dsn
        self._size = pool_size
        self._timeout = statement_timeout
        self._pool: Pool | None = None

    async def open(self) -> None:
        """Connects at least once. Raises Unavailable."""
        try:
            self._pool = await asyncpg.create_pool(
                self._dsn,
                min_size=1,
                max_size=self._size,
                max_inactive_connection_lifetime=300,
                command_timeout=self._timeout,
                timeout=min(self._timeout, 10),
                connection_class=LogConnection,
                server_settings={"application_name": "run-gateway"},
            )
        except FAULTS as error:
            raise Unavailable(f"The database cannot be reached: {type(error).__name__}.") from error

    async def close(self) -> None:
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), timeout=2)
            except TimeoutError:
                self._pool.terminate()

    @property
    def connections(self) -> dict[str, int]:
        """Connections of the pool: `busy` ones, a writer's lanes among them, and `idle` ones."""
        if self._pool is None:
            return {"busy": 0, "idle": 0}
        idle = self._pool.get_idle_size()
        return {"busy": self._pool.get_size() - idle, "idle": idle}

    @property
    def size(self) -> int:
        """Connections that the pool may have."""
        return self._size

    def lane(self) -> Lane:
        """A connection for statements that follow one another closely; kept, where the pool has enough of them."""
        return Lane(self, keep=self._size >= _ENOUGH)

    async def take(self) -> Pooled:
        """A connection that `give_back` must be told of. Raises what the driver does."""
        assert self._pool is not None, "opened before it is used"
        began = time.monotonic()
        connection = await self._pool.acquire(timeout=self._timeout)
        self.waits.observe(time.monotonic() - began)
        return connection

    async def give_back(self, connection: Pooled) -> None:
        assert self._pool is not None, "opened before it is used"
        await self._pool.release(connection)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Pooled]:
        """A connection; faults inside become Unavailable, whose cause says what happened."""
        assert self._pool is not None, "opened before it is used"
        began = time.monotonic()
        try:
            async with self._pool.acquire(timeout=self._timeout) as connection:
                self.waits.observe(time.monotonic() - began)
                yield connection
        except FAULTS as error:
            raise Unavailable from error
