"""A replica of the database near this Machine: what is read there is never behind what its reader may expect.

Law. A replica costs latency, and nothing else. It is asked for what it has to show, and what it shows counts only if

- it is a standby of this very log: its epoch and incarnation are the primary's;
- it has replayed what the primary had written at the last look, and so what this Machine had been told by then;
- it has what this Machine has been told since (`gateway.log.told`): tails, ends, what was made and deleted;
- a stream has no TTL, which a read prolongs at the primary;
- LISTEN works, and for an open stream that look was a moment ago, so that nothing can be missing for long that other
  Machines have committed.

Everything else is read at the primary: what is not there, what is gone, and whatever fails.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import asyncpg

from gateway.log.connect import FAULTS, LOSSES, LogConnection
from gateway.log.database import Database
from gateway.log.lists import Lists
from gateway.log.reader import Reader
from gateway.log.told import Told
from gateway.outage import Outage
from gateway.protocol.batch import Page, Stream
from gateway.protocol.errors import (
    ListTooSlow,
    OffsetGone,
    StreamGone,
    StreamNotFound,
    TooManyLists,
    TooManyReads,
    Unavailable,
)
from gateway.protocol.offset import split
from gateway.protocol.tenants import tenant_of
from gateway.tasks import end, forever, kept

if TYPE_CHECKING:
    from gateway.log.database import Pooled

logger = logging.getLogger("gateway.log.replica")

BEAT: Final = 0.1  # seconds between looks at the replica
IDLE: Final = 1.0  # seconds between looks at the primary, when nothing was told meanwhile
SOON: Final = 0.5  # seconds for the replica to say what it is
CURRENT: Final = 3.0  # seconds since the look at the primary that the replica has proved, for streams that are open
BEHIND: Final = 60.0  # seconds that a look may wait for its proof, for streams that are closed: those are only deleted

# How much the primary has written to its log of changes, in bytes; what a replica is, and how much of that it has.
WRITTEN: Final = "SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint"
STATE: Final = """
    SELECT pg_is_in_recovery() AS standby, (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::bigint AS replayed,
           pg_postmaster_start_time()::text || coalesce(inet_server_addr()::text, '') AS server, s.epoch, s.incarnation
      FROM run_gateway.server s WHERE s.one
"""
_FINAL: Final = (TooManyReads, TooManyLists, ListTooSlow)  # refusals that hold, wherever it is read


class Replica(Database):
    """The pool of the replica. A connection is given out only while the replica has what was told up to the last look.

    `primary` has the log. `listens`: whether news of other Machines arrives.
    """

    def __init__(
        self,
        dsn: str,
        primary: Database,
        told: Told,
        *,
        listens: Callable[[], bool],
        pool_size: int,
        statement_timeout: float,
        max_age: float,
    ) -> None:
        super().__init__(dsn, pool_size=pool_size, statement_timeout=statement_timeout, max_age=max_age)
        self.told = told
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
        self._replayed: int | None = None  # bytes of the primary's log of changes that a reader may expect
        self._proved_at = float("-inf")  # when the primary was asked for them
        self._proved_by = ""  # the server that had them
        self._look: tuple[int, float] | None = None  # the bytes that are to be proved, and when they were asked for
        self._asked_at = float("-inf")
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begins to look for the replica, which need not be there."""
        self._loop = asyncio.get_running_loop()
        self._tasks = [
            kept("replica", lambda: forever("Looking at the replica", self._look_there, lambda: BEAT)),
            kept("primary", lambda: forever("Looking at the primary", self._look_at_primary, lambda: BEAT)),
        ]

    async def close(self) -> None:
        await end(*self._tasks)
        await super().close()

    def doubt(self) -> None:
        """Anything may have happened to the log: the replica has to prove that it has it."""
        self.told.doubt()

    def switched(self) -> None:
        """The log is on another server, whose log of changes counts anew."""
        self.told.doubt()
        self._replayed = self._look = None
        self._proved_at = self._asked_at = float("-inf")

    @property
    def current(self) -> bool:
        """True if nothing can be missing that another Machine has committed for long."""
        return self._listens() and time.monotonic() - self._proved_at < CURRENT

    @property
    def near(self) -> bool:
        """True if it may be asked."""
        return self._ready and self._replayed is not None

    @property
    def used(self) -> bool:
        """True if it may be asked, and has been heard of just now."""
        return self.near and self.current

    def lacks(self, stream: Stream) -> bool:
        """Whether a stream, as the replica shows it, is less than its reader may expect."""
        server = self.primary.server
        if stream.ttl is not None or server is None or split(stream.tail)[0] > server.epoch:
            return True
        if stream.closed and self.primary.away.lasts:
            return stream.path in self.told.deleted  # nobody knows better
        return not (self.current or (stream.closed and self._proves_soon)) or self.told.lacks(stream)

    def lacks_record(self, path: str, id: int, ended: bool) -> bool:
        """The same of a run's record."""
        return not (self.current or (ended and self._proves_soon)) or self.told.lacks_record(path, id, ended)

    @property
    def _proves_soon(self) -> bool:
        """True unless it is known to be far behind."""
        return self._listens() and (self._look is None or time.monotonic() - self._look[1] < BEHIND)

    @asynccontextmanager
    async def acquire(self, tenant: str | None = None, *, at_most: float | None = None) -> AsyncIterator[Pooled]:
        """A connection whose next statement sees what was told up to the last look. Raises Unavailable."""
        if not self.near:
            raise Unavailable
        async with super().acquire(tenant, at_most=at_most) as connection:
            server, replayed = await self._ask(connection)
            if self._replayed is None:
                raise Unavailable
            yield connection
        # Another replica at this address may have proved more meanwhile, which is told no more.
        if self._replayed is None or (server != self._proved_by and replayed < self._replayed):
            raise Unavailable

    async def take(self, timeout: float | None = None, *, newer_than: float = 0.0) -> Pooled:
        return await super().take(min(timeout or IDLE, IDLE), newer_than=newer_than)

    def judge(self, connection: Pooled | None, error: BaseException) -> None:
        if isinstance(error, LOSSES):
            self._ready = False  # until it has answered again: nobody else waits for it
        super().judge(connection, error)

    async def meet(self, connection: LogConnection) -> None:
        """Nothing is asked of a new connection: each use asks, and `identify` may write."""

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
        """Asks what the replica is, before it is asked for anything else: what it shows then is no earlier. Returns
        which server it is, and what it has replayed. Raises Unavailable.
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
            self._replayed, self._proved_at = self._look
            self._proved_by, self._look = row["server"], None
            self.told.proved()
        if self._replayed is not None and row["replayed"] < self._replayed:
            raise Unavailable("it is behind")
        return row["server"], row["replayed"]

    async def _look_at_primary(self) -> None:
        """Asks how far the primary's log of changes goes: a replica that has as much has what was told until now."""
        if self._look is not None or not self._ready:
            return
        asked_at = time.monotonic()
        if self.told.nothing and asked_at - self._asked_at < IDLE:
            return
        switches = self.primary.switches
        self._asked_at = asked_at
        self.told.turn()
        async with self.primary.acquire() as connection:
            try:
                written: int = await connection.fetchval(WRITTEN)
            except (asyncpg.UndefinedFunctionError, asyncpg.InsufficientPrivilegeError):
                self._unused.begin("the primary does not say how far its log goes")
                return
        if switches == self.primary.switches:
            self._look = written, asked_at


class Near:
    """Reads where it is near: at the replica, if it has what the reader may expect, and else at the primary.

    `reader` asks the primary; `lists` and `there` ask the replica. `reads` counts where pages, records and lists were
    read.
    """

    def __init__(self, replica: Replica, reader: Reader, *, page_bytes: int, most: int, lists: Lists) -> None:
        self.reads = Counter[str](replica=0, primary=0)
        self.replica = replica
        self._reader = reader
        self.there = Reader(replica, page_bytes=page_bytes, most=most)
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
        """The row that a statement gives of the stream at a path; None: the primary has to be asked."""
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
        if self.replica.current and not self.replica.told.lacks_list(tenant):
            try:
                rows = await self._lists.fetch(tenant, statement, *arguments)
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
        self.replica.told.seen(stream.path, stream.tail, stream.closed, stream.id)
        return page

    def _count(self, near: bool) -> None:
        self.reads["replica" if near else "primary"] += 1
