"""A replica of the database near this Machine, and whether it has caught up with what a reader may expect.

Law. A replica costs latency, and nothing else. A page from it counts only if

- the replica is a standby of this very log: its epoch and incarnation are the primary's;
- it has replayed what the primary had written at the last look, and so what this Machine knew of by then;
- it has reached the watermarks of what this Machine has come to know of since (`gateway.log.watermarks`);
- the stream has no TTL, which a read prolongs at the primary;
- LISTEN works and, for an open stream, that look was a moment ago: no commit of another Machine is missing for long.

`gateway.log.near` reads everything else at the primary.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from gateway.log.connect import FAULTS, LOSSES, LogConnection
from gateway.log.database import Database
from gateway.log.watermarks import Watermarks
from gateway.outage import Outage
from gateway.protocol.batch import Stream
from gateway.protocol.errors import Unavailable
from gateway.protocol.offset import split
from gateway.tasks import end, forever, kept

if TYPE_CHECKING:
    from gateway.log.database import Pooled

logger = logging.getLogger("gateway.log.replica")

BEAT: Final = 0.1  # seconds between looks at the replica
IDLE: Final = 1.0  # seconds between looks at the primary, while there are no watermarks to prove
SOON: Final = 0.5  # seconds for the replica to say what it is
CATCH_UP: Final = 0.5  # seconds for it to replay what the primary has just said that it has written
PACE: Final = 0.01  # seconds between two looks whether it has
WARM: Final = 60.0  # seconds between uses of two connections to the primary, which so are never idle for long
CURRENT: Final = 3.0  # seconds since the look at the primary that the replica has proved, for streams that are open
BEHIND: Final = 60.0  # seconds that a look may wait for its proof, for streams that are closed: those are only deleted

_SILENT: Final = (asyncpg.UndefinedFunctionError, asyncpg.InsufficientPrivilegeError)

# Bytes of WAL that the primary has written; what a replica is, and how many of them it has replayed.
WRITTEN: Final = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
STATE: Final = """
    SELECT pg_is_in_recovery() AS standby, (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint AS replayed,
           pg_postmaster_start_time()::text || coalesce(inet_server_addr()::text, '') AS server, s.epoch, s.incarnation
      FROM run_gateway.server s WHERE s.one
"""


class Replica(Database):
    """The replica's pool. It gives out a connection only while the replica has what the last look asked for.

    `primary`: the database that has the log. `listens`: whether LISTEN works.
    """

    def __init__(
        self,
        dsn: str,
        primary: Database,
        watermarks: Watermarks,
        *,
        listens: Callable[[], bool],
        pool_size: int,
        statement_timeout: float,
        max_age: float,
    ) -> None:
        super().__init__(dsn, pool_size=pool_size, statement_timeout=statement_timeout, max_age=max_age)
        self.watermarks = watermarks
        self._unused = Outage(
            logger,
            "The replica near this Machine is not used (%s): what would be read there is read at the primary.",
            "The replica near this Machine is used again.",
        )
        self.away = Outage(
            logger, "The replica cannot be reached (%r).", "The replica can be reached again.", within=self._unused
        )
        self.primary = primary
        self._listens = listens
        self._opened = False
        self._ready = False  # it was itself when it was asked last
        self._replayed: int | None = None  # bytes of the primary's WAL that a reader may expect
        self._proved_at = float("-inf")  # when the primary was asked for them
        self._proved_by = ""  # the server that had them
        self._look: tuple[int, float] | None = None  # the bytes that are to be proved, and when they were asked for
        self._asked_at = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begins to look for the replica, which may come later."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [
            kept("replica", lambda: forever("Looking at the replica", self._look_there, lambda: BEAT)),
            kept("primary", lambda: forever("Looking at the primary", self._look_at_primary, lambda: BEAT)),
            kept("warmth", lambda: forever("Using connections to the primary", self._keep_warm, lambda: WARM)),
        ]

    async def close(self) -> None:
        await end(*self._tasks)
        await super().close()

    def doubt(self) -> None:
        """Notes that anything may have been committed: the replica has to prove anew that it has caught up."""
        self.watermarks.doubt()

    def switched(self) -> None:
        """Notes that the log is on another server, which counts its WAL anew."""
        self.watermarks.doubt()
        self._replayed = self._look = None
        self._proved_at = self._asked_at = float("-inf")

    @property
    def current(self) -> bool:
        """True if no commit of another Machine can be missing for long."""
        return self._listens() and time.monotonic() - self._proved_at < CURRENT

    @property
    def near(self) -> bool:
        """True if the replica may be asked."""
        return self._ready and self._replayed is not None

    @property
    def used(self) -> bool:
        """True if the replica may be asked, also for open streams."""
        return self.near and self.current

    def lacks(self, stream: Stream) -> bool:
        """True if the replica shows less of a stream than its reader may expect."""
        server = self.primary.server
        if stream.ttl is not None or server is None or split(stream.tail)[0] > server.epoch:
            return True
        if stream.closed and self.primary.away.lasts:
            return stream.path in self.watermarks.deleted  # nobody knows better
        return not (self.current or (stream.closed and self._proves_soon)) or self.watermarks.exceed(stream)

    def lacks_record(self, path: str, id: int, ended: bool) -> bool:
        """True if the replica's record of a run may be older than its reader may expect."""
        return not (self.current or (ended and self._proves_soon)) or self.watermarks.exceed_record(path, id, ended)

    @property
    def _proves_soon(self) -> bool:
        """True unless the replica is known to be far behind."""
        return self._listens() and (self._look is None or time.monotonic() - self._look[1] < BEHIND)

    async def catch_up(self, tenant: str) -> None:
        """Returns when the replica has all that the primary had written at some moment after the call, and so whatever
        this Machine knew by then: connections that `acquire` gives have it. For a tenant's request, whose turn it is.

        That takes a round trip to the primary, in which the replica most often gets there. Raises Unavailable.
        """
        switches = self.primary.switches
        written = await self._written(tenant)
        try:
            async with asyncio.timeout(CATCH_UP):
                while await self._reached() < written:  # noqa: ASYNC110  a server tells nobody
                    await asyncio.sleep(PACE)
        except TimeoutError:
            raise Unavailable("it is behind") from None
        if switches != self.primary.switches or self._replayed is None:
            raise Unavailable("the log is on another server")
        self._replayed = max(self._replayed, written)

    async def _reached(self) -> int:
        """How many bytes of the primary's WAL the replica has replayed. Raises Unavailable."""
        async with super().acquire() as connection:
            return (await self._ask(connection))[1]

    @asynccontextmanager
    async def acquire(self, tenant: str | None = None, *, at_most: float | None = None) -> AsyncIterator[Pooled]:
        """A connection whose next statement sees what the last look asked for. Raises Unavailable."""
        if not self.near:
            raise Unavailable
        async with super().acquire(tenant, at_most=at_most) as connection:
            server, replayed = await self._ask(connection)
            if self._replayed is None:
                raise Unavailable
            yield connection
        # Another replica at this address may have proved more meanwhile, whose watermarks are forgotten by now.
        if self._replayed is None or (server != self._proved_by and replayed < self._replayed):
            raise Unavailable

    async def take(self, timeout: float | None = None, *, newer_than: float = 0.0) -> Pooled:
        return await super().take(min(timeout or IDLE, IDLE), newer_than=newer_than)

    def judge(self, connection: Pooled | None, error: BaseException) -> None:
        if isinstance(error, LOSSES):
            self._ready = False  # until it has answered again: nobody else waits for it
        super().judge(connection, error)

    async def meet(self, connection: LogConnection) -> None:
        """Does nothing: each use of a connection asks, and `identify` may write."""

    async def _open(self) -> None:
        await super()._open()
        # Behind a pooler each transaction may have another server: what is asked and what is read have to be one.
        self._levelled = self._levelled and bool(self._settings)
        self._opened = True

    async def _look_there(self) -> None:
        try:
            if not self._opened:
                await self._open()
            async with super().acquire() as connection:
                await self._ask(connection)
        except (*FAULTS, Unavailable, ValueError) as error:
            self._ready = False
            refused = isinstance(error, Unavailable) and error.__cause__ is None
            self._unused.begin(str(error) if refused else repr(error.__cause__ or error))
        else:
            self._ready = True
            if self._look is not None and time.monotonic() - self._look[1] > CURRENT:
                self._unused.begin("it is behind")
            elif self._replayed is not None:
                self._unused.end()

    async def _ask(self, connection: Pooled) -> tuple[str, int]:
        """Asks what the replica is and how far it has replayed, before anything is read there: a later read shows no
        less. Returns the server and its bytes of WAL. Raises Unavailable.
        """
        row = await connection.fetchrow(STATE, timeout=SOON)
        server = self.primary.server
        if row is None or not row["standby"] or row["replayed"] is None:
            self._ready = False
            raise Unavailable("it is no standby")
        if server is None or (row["epoch"], row["incarnation"]) != (server.epoch, server.incarnation):
            self._ready = False
            raise Unavailable("it has another log")
        if self._look is not None and row["replayed"] >= self._look[0]:
            self._replayed, self._proved_at = max(self._look[0], self._replayed or 0), self._look[1]
            self._proved_by, self._look = row["server"], None
            self.watermarks.proved()
        if self._replayed is not None and row["replayed"] < self._replayed:
            raise Unavailable("it is behind")
        return row["server"], row["replayed"]

    async def _look_at_primary(self) -> None:
        """Asks how far the primary's WAL goes: a replica that has replayed it has reached all watermarks until now."""
        if self._look is not None or not self._ready:
            return
        asked_at = time.monotonic()
        if self.watermarks.none and asked_at - self._asked_at < IDLE:
            return
        switches = self.primary.switches
        self._asked_at = asked_at
        self.watermarks.turn()
        try:
            written = await self._written()
        except Unavailable as error:
            if isinstance(error.__cause__, _SILENT):
                self._unused.begin("the primary does not say how far its log goes")
                return
            raise
        if switches == self.primary.switches:
            self._look = written, asked_at

    async def _written(self, tenant: str | None = None) -> int:
        """How many bytes of WAL the primary has written. Raises Unavailable."""
        async with self.primary.acquire(tenant) as connection:
            written: int = await connection.fetchval(WRITTEN)
        return written

    async def _keep_warm(self) -> None:
        """Has two connections to the primary open, for the looks and for a request beside them: an ocean away a
        new one takes four or five round trips.
        """
        await asyncio.gather(self._written(), self._written(), return_exceptions=True)
