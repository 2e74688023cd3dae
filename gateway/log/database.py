"""The way to Postgres: a small pool, and the driver's errors as the protocol's.

A connection is held for one statement at a time, never while a reader waits (law 7). A connection that was lost, did
not answer, or has been open for long is closed and replaced; nothing waits for a server that may not be there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Self, cast

import asyncpg

from gateway.counting import SECONDS, Histogram
from gateway.log.connect import FAULTS, LOSSES, LogConnection, connect, keeps_statements
from gateway.protocol.errors import NotSent, NotWritable, StreamHeld, Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pooled = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

logger = logging.getLogger("gateway.log.database")

_ENOUGH = 4  # connections in a pool that is large enough for the writer to keep some of them
_CONNECT = 5.0  # seconds for a new connection, at most
_PAUSE = 0.5  # seconds between one attempt to open the pool and the next
_DEMOTED = 5.0  # seconds between reconnects in search of the new primary

_LEVEL = "SELECT current_setting('default_transaction_isolation')"

# All types that our statements use and the driver does not know by itself: asked for once, see LogConnection.
_TYPES = "SELECT NULL::text[], NULL::integer[], NULL::bigint[], NULL::boolean[], NULL::bytea[]"

# Raised behind a pooler that has sent a statement to a server which does not know it, or knows another by that name.
_FORGOTTEN = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


class Lane:
    """One connection of the pool, replaced when it has failed or was lost. `keep`: it is held between statements too.

    `timeout`: seconds for one statement, and as many for a connection to send it on.
    """

    def __init__(self, database: Database, *, keep: bool, timeout: float) -> None:
        self._database = database
        self._keep = keep
        self._timeout = timeout
        self._connection: Pooled | None = None

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record:
        """The one row that a statement gives.

        Raises Unavailable, whose cause says what happened: NotSent where there was no connection to send it on.
        """
        try:
            connection = self._connection
            if connection is None or not self._database.usable(connection):
                await self.close()
                connection = self._connection = await self._database.take(self._timeout)
        except FAULTS as error:
            self._database.judge(None, error)
            raise NotSent from error
        try:
            row = await connection.fetchrow(statement, *arguments, timeout=self._timeout)
        except FAULTS as error:
            self._database.judge(self._connection, error)
            await self.close()
            raise _translated(error) from error
        except BaseException:
            self._database.discard(self._connection)  # cancelled in the middle of a statement: its state is unknown
            await self.close()
            raise
        if not self._keep:
            await self.close()
        assert row is not None, "such a statement gives one row"
        return row

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*FAULTS):  # it has failed already, which was reported
                await self._database.give_back(connection)


class Database:
    """The pool of a Machine. Opened once, or used as a context manager; `acquire` gives a connection for one statement.

    `statement_timeout`, `max_age` and `patience` are seconds: for one statement, for a connection's life, and for the
    server to answer at first.
    """

    def __init__(
        self, dsn: str, *, pool_size: int, statement_timeout: float, max_age: float = 600, patience: float = 0
    ) -> None:
        self.waits = Histogram(SECONDS)  # for a connection of the pool, new ones' opening included
        self._dsn = dsn
        self._size = pool_size
        self._timeout = statement_timeout
        self._max_age = max_age
        self._patience = patience
        self._cached = False
        self._levelled = True  # transactions are READ COMMITTED by themselves
        self._since = 0.0  # connections that were opened before this time are not used any more
        self._pool: Pool | None = None

    async def open(self) -> None:
        """Connects at least once, and tries again while the server is away, as when it restarts. Raises Unavailable."""
        self._loop = asyncio.get_running_loop()
        until = self._loop.time() + self._patience
        while True:
            try:
                await self._open()
            except FAULTS as error:
                if not isinstance(error, LOSSES) or self._loop.time() >= until:
                    raise Unavailable(f"The database cannot be reached: {type(error).__name__}.") from error
            else:
                return
            await asyncio.sleep(_PAUSE)

    async def _open(self) -> None:
        self._cached = await keeps_statements(lambda: connect(self._dsn, timeout=10, command_timeout=10))
        if not self._cached:
            logger.warning("A pooler that loses prepared statements: each statement takes two round trips.")
        # min_size 0: the driver would open connections by itself, and fill the log when it cannot.
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._size,
            max_inactive_connection_lifetime=min(300, self._max_age),
            connect=cast("Any", self._connect),  # the stubs ask for a class that nobody could write
            connection_class=LogConnection,
        )
        async with self._pool.acquire() as connection:
            await connection.fetchrow(_TYPES)
            level = await connection.fetchval(_LEVEL)
        self._levelled = level == "read committed"
        if not self._levelled:
            logger.warning(
                "Transactions of this role are %s by default: all statements but appends take two round trips more."
                " ALTER ROLE … SET default_transaction_isolation = 'read committed' saves them.",
                level,
            )

    async def close(self) -> None:
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), timeout=2)
            except TimeoutError:
                self._pool.terminate()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

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

    def lane(self, timeout: float | None = None) -> Lane:
        """A connection for statements that follow one another closely; kept, where the pool has enough of them."""
        return Lane(self, keep=self._size >= _ENOUGH, timeout=timeout or self._timeout)

    async def take(self, timeout: float | None = None) -> Pooled:
        """A connection, to be returned by `give_back`. Raises what the driver raises."""
        assert self._pool is not None, "opened before it is used"
        began = time.monotonic()
        while True:
            connection = await self._pool.acquire(timeout=timeout or self._timeout)
            if self.usable(connection):
                self.waits.observe(time.monotonic() - began)
                return connection
            self.discard(connection)
            await self.give_back(connection)

    async def give_back(self, connection: Pooled) -> None:
        assert self._pool is not None, "opened before it is used"
        await self._pool.release(connection)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Pooled]:
        """A connection; faults inside become Unavailable, whose cause says what happened."""
        connection: Pooled | None = None
        try:
            connection = await self.take()
            if self._levelled:
                yield connection
            else:
                async with connection.transaction(isolation="read_committed"):
                    yield connection
        except FAULTS as error:
            self.judge(connection, error)
            raise _translated(error) from error
        except asyncio.CancelledError:
            self.discard(connection)  # it may be in the middle of a statement
            raise
        finally:
            if connection is not None:
                with suppress(*FAULTS):
                    await self.give_back(connection)

    def usable(self, connection: Pooled) -> bool:
        """Whether the next statement may go to it."""
        own: Any = connection
        return _is_open(connection) and own.born >= self._since and own.retires > self._loop.time()

    def judge(self, connection: Pooled | None, error: BaseException) -> None:
        """Draws the consequences of an error for the connection that it came on, and for the others."""
        if isinstance(error, _FORGOTTEN) and self._cached:
            self._cached = False
            self._since = self._loop.time()
            logger.warning("A pooler has lost a prepared statement: from now on each takes two round trips.")
        elif isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            # A primary that became a standby keeps its connections: new ones may lead to the new primary.
            if self._loop.time() - self._since > _DEMOTED:
                self._since = self._loop.time()
        elif isinstance(error, LOSSES):
            self.discard(connection)
            if isinstance(error, TimeoutError) and connection is not None:
                # It is most likely half-open, and so are the idle ones then: none of them is used again.
                self._since = self._loop.time()

    def discard(self, connection: Pooled | None) -> None:
        """Closes a connection at once, without a farewell to a server that may be gone."""
        if connection is not None and _is_open(connection):
            connection.terminate()

    async def _connect(self, dsn: str, **options: Any) -> LogConnection:
        return await connect(
            dsn,
            timeout=min(self._timeout, _CONNECT),
            command_timeout=self._timeout,
            cached=self._cached,
            max_age=self._max_age,
            **options,
        )


def _is_open(connection: Pooled) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False  # it was lost while it lay idle, and the driver has taken it back


def _translated(error: BaseException) -> Unavailable:
    """The driver's error as the protocol's."""
    if isinstance(error, asyncpg.DiskFullError) and error.server_source_function == "SlruReportIOError":
        return Unavailable()  # a notification found no room, when what it tells of was committed already
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError | asyncpg.DiskFullError):
        return NotWritable()
    return StreamHeld() if isinstance(error, asyncpg.LockNotAvailableError) else Unavailable()
