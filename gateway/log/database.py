"""The way to Postgres: a small pool, and the driver's errors as the protocol's.

A connection is held for one statement at a time, never while a reader waits (law 7). A request that waits for one
waits in its tenant's line: turns go round by tenant (law 11). A connection that was lost, did
not answer, or has been open for long is closed and replaced; nothing waits for a server that may not be there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Self, cast

import asyncpg

from gateway.counting import SECONDS, Histogram
from gateway.log.connect import FAULTS, LOSSES, LogConnection, Unconfirmed, connect, way_to
from gateway.log.identity import Overtaken, Server, begin_epoch, identify
from gateway.log.lane import Lane, translated
from gateway.log.turns import Turns
from gateway.outage import Outage
from gateway.protocol.errors import Unavailable
from gateway.tasks import end

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pooled = PoolConnectionProxy[asyncpg.Record]
    Pool = asyncpg.Pool[asyncpg.Record]

logger = logging.getLogger("gateway.log.database")

LANES: Final = 3  # batches of appends that may be on their way to the database at once, each on a connection
_ENOUGH = 4  # connections in a pool that is large enough for the writer to keep some of them
_CONNECT = 5.0  # seconds for a new connection, at most
_PAUSE = 0.5  # seconds between one attempt to open the pool and the next
_LENT = 2.0  # seconds that an idle connection keeps a place of a pooler that others wait for
_DEMOTED = 5.0  # seconds between reconnects in search of the new primary

_PROBE = 2.0  # seconds for another connection to answer, when one has not

_LEVEL = "SELECT current_setting('default_transaction_isolation')"
_WAITS = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep')"

# All types that our statements use and the driver does not know by itself: asked for once, see LogConnection.
_TYPES = "SELECT NULL::text[], NULL::integer[], NULL::bigint[], NULL::boolean[], NULL::bytea[]"

# Raised behind a pooler that has sent a statement to a server which does not know it, or knows another by that name.
_FORGOTTEN = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


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
        self.away = Outage(
            logger,
            "The database cannot be reached (%r): what needs it is answered 503, and readers wait until it can.",
            "The database can be reached again.",
        )
        self._size = pool_size
        self._timeout = statement_timeout
        self._max_age = max_age
        self._patience = patience
        self._turns = Turns(pool_size if pool_size < _ENOUGH else max(2, pool_size - LANES))
        self._handed_over: list[Pooled] = []  # by those whose turn is over to those whose turn it is now
        self._cached = False
        self._levelled = True  # transactions are READ COMMITTED by themselves
        self._since = 0.0  # connections that were opened before this time are not used any more
        self.server: Server | None = None  # that was met last
        self.switches = 0  # times that it was another log than before
        self.on_switch: Callable[[Server, Server], None] | None = None
        self._pool: Pool | None = None
        self._settings: dict[str, str] = {}  # of each session, where no pooler is in between
        self._probing: asyncio.Task[None] | None = None
        self._returning: set[asyncio.Task[None]] = set()

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
        way = await way_to(lambda: connect(self._dsn, timeout=10, command_timeout=10))
        self._cached = way.keeps_statements
        self._settings = way.settings
        if not self._cached:
            logger.warning(
                "The pooler in front of Postgres loses prepared statements: each statement takes two round trips."
            )
        if way.by_session:
            logger.warning(
                "The pooler in front of Postgres lends a place to each session: give it %d a worker, or they wait.",
                self._size + 1,
            )
        # min_size 0: the driver would open connections by itself, and fill the log when it cannot.
        self._pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._size,
            # Where others may be waiting for its place, a connection that nobody uses makes room.
            max_inactive_connection_lifetime=min(_LENT if way.by_session else 300, self._max_age),
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
        await end(self._probing)
        if self._pool is not None:
            try:
                async with asyncio.timeout(2):
                    await self._pool.close()
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

    async def take(self, timeout: float | None = None, *, newer_than: float = 0.0) -> Pooled:
        """A connection, to be returned by `give_back`. Raises what the driver raises.

        `newer_than`: a time by the loop's clock, before which it may not have been opened.
        """
        assert self._pool is not None, "opened before it is used"
        began = time.monotonic()
        while True:
            connection = await self._pool.acquire(timeout=timeout or self._timeout)
            if self.usable(connection) and cast("Any", connection).born >= newer_than:
                self.waits.observe(time.monotonic() - began)
                return connection
            self.discard(connection)
            await self.give_back(connection)

    async def give_back(self, connection: Pooled) -> None:
        assert self._pool is not None, "opened before it is used"
        await self._pool.release(connection)

    @asynccontextmanager
    async def acquire(self, tenant: str | None = None, *, at_most: float | None = None) -> AsyncIterator[Pooled]:
        """A connection; faults inside become Unavailable, whose cause says what happened.

        `tenant`: whose request it is for; turns go round by tenant. None: it is the Machine's own work. `at_most`: how
        many seconds ago it may have been opened.
        """
        connection: Pooled | None = None
        turn = well = False
        try:
            if tenant is not None:
                async with asyncio.timeout(self._timeout):
                    await self._turns.take(tenant)
                turn = True
                connection = self._taken_over()
            if connection is None:
                connection = await self.take(newer_than=0.0 if at_most is None else self._loop.time() - at_most)
            if self._levelled:
                yield connection
            else:
                async with connection.transaction(isolation="read_committed"):
                    yield connection
            well = True
        except FAULTS as error:
            self.judge(connection, error)
            raise translated(error) from error
        except asyncio.CancelledError:
            self.discard(connection)  # it may be in the middle of a statement
            raise
        finally:
            if connection is not None and turn and well and self._turns.awaited:
                self._handed_over.append(connection)
            elif connection is not None:
                self._return(connection)
            if turn:
                self._turns.give_back()
            while self._handed_over and self._turns.free:
                self._return(self._handed_over.pop())  # the request that was to have it was cancelled

    def _taken_over(self) -> Pooled | None:
        """The connection of a turn that has just been given back, if others waited for one: by the driver's pool it
        would take four turns of the loop to come here, in which it is of use to nobody.
        """
        while self._handed_over:
            connection = self._handed_over.pop()
            if self.usable(connection):
                self.waits.observe(0.0)
                return connection
            self.discard(connection)
            self._return(connection)
        return None

    def _return(self, connection: Pooled) -> None:
        """Gives a connection back without waiting for it, which takes the driver some turns of the loop."""
        returning = self._loop.create_task(self._give_back_somehow(connection))
        self._returning.add(returning)  # the loop holds tasks only weakly
        returning.add_done_callback(self._returning.discard)

    async def _give_back_somehow(self, connection: Pooled) -> None:
        with suppress(*FAULTS):
            await self.give_back(connection)

    def usable(self, connection: Pooled) -> bool:
        """True if the next statement may go to the connection."""
        own: Any = connection
        return _is_open(connection) and own.born >= self._since and own.retires > self._loop.time()

    def judge(self, connection: Pooled | None, error: BaseException) -> None:
        """Draws the consequences of an error for the connection that it came on, and for the others."""
        if isinstance(error, _FORGOTTEN) and self._cached:
            self._cached = False
            self._since = self._loop.time()
            logger.warning(
                "The pooler has lost a prepared statement: from now on each statement takes two round trips."
            )
        elif isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            # A primary that became a standby keeps its connections: new ones may lead to the new primary.
            if self._loop.time() - self._since > _DEMOTED:
                self._since = self._loop.time()
        elif isinstance(error, LOSSES):
            self.discard(connection)
            if isinstance(error, Unconfirmed):
                logger.warning(
                    "A wait for the synchronous standby was cut short: what was committed may be lost by a failover."
                )
            if isinstance(error, TimeoutError) and connection is not None and self._probing is None:
                # A slow statement, or a connection that is half-open, as the idle ones are then.
                self._probing = asyncio.create_task(self._probe(), name="database probe")

    async def _probe(self) -> None:
        """Asks an idle connection for an answer. Where it gives none, no connection that is open now is used again."""
        assert self._pool is not None, "opened before it is used"
        began = self._loop.time()
        try:
            while self._pool.get_idle_size():
                connection = await self._pool.acquire(timeout=_PROBE)
                try:
                    if self.usable(connection):
                        await connection.fetchval("SELECT 1", timeout=_PROBE)
                        return
                except FAULTS:
                    self.discard(connection)
                    raise
                finally:
                    with suppress(*FAULTS):
                        await self._pool.release(connection)
        except FAULTS as error:
            logger.warning("The database does not answer (%s): all connections are replaced.", type(error).__name__)
            self._since = began
        finally:
            self._probing = None

    async def unconfirmed(self, pid: int) -> bool:
        """True while this process of the server waits for a synchronous standby. Raises Unavailable.

        Behind a pooler, whose pids are its own, the answer is no.
        """
        async with self.acquire() as connection:
            return bool(await connection.fetchval(_WAITS, pid))

    def discard(self, connection: Pooled | None) -> None:
        """Closes a connection without a farewell to a server that may be gone."""
        if connection is not None and _is_open(connection):
            connection.terminate()

    async def meet(self, connection: LogConnection) -> None:
        """Asks which log a connection leads to. One that is later than the one known takes its place, and no connection
        from before is used any more. Raises Overtaken for one that is earlier, and what the driver raises.
        """
        before = self.server  # as others may ask meanwhile
        server = await identify(connection)
        if server is not None and server.went_back(before):
            logger.warning("The database went back to an earlier moment of its own; a new epoch of the log begins.")
            server = await begin_epoch(connection, server)
        known = self.server
        if server is None:
            return
        if known is None or server.goes_on_from(known):
            self.server = server
        elif server.epoch < known.epoch:
            logger.warning(
                "A server answers that another one has taken over from (timeline %s, epoch %d); it is not used.",
                server.timeline,
                server.epoch,
            )
            raise Overtaken
        else:
            self.server = server
            self.switches += 1
            self._since = connection.born
            if self.on_switch is not None:
                self.on_switch(known, server)

    async def _connect(self, dsn: str, **options: Any) -> LogConnection:
        try:
            connection = await self._connect_somehow(dsn, **options)
        except LOSSES as error:
            if not self.connections["busy"] + self.connections["idle"]:
                self.away.begin(error)
            raise
        self.away.end()
        return connection

    async def _connect_somehow(self, dsn: str, **options: Any) -> LogConnection:
        try:
            return await self._connect_with(dsn, self._settings, **options)
        except (asyncpg.ProtocolViolationError, asyncpg.UndefinedObjectError):
            if not self._settings:
                raise
            # Another server, or a pooler, has come to be at this address.
            self._settings = {}
            return await self._connect_with(dsn, {}, **options)

    async def _connect_with(self, dsn: str, settings: dict[str, str], **options: Any) -> LogConnection:
        connection = await connect(
            dsn,
            timeout=min(self._timeout, _CONNECT),
            command_timeout=self._timeout,
            cached=self._cached,
            max_age=self._max_age,
            settings=settings,
            **options,
        )
        try:
            await self.meet(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection


def _is_open(connection: Pooled) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        return False  # it was lost while it lay idle, and the driver has taken it back
