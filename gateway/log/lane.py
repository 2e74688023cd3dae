"""A connection that appends go by, and what the driver's errors mean to who has sent something on one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

import asyncpg

from gateway.log.connect import FAULTS
from gateway.protocol.errors import NotSent, NotWritable, StreamHeld, Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pooled = PoolConnectionProxy[asyncpg.Record]

_LOOK: Final = 0.25  # seconds between looks whether a standby has confirmed what a lane has given up


class Connections(Protocol):
    """`Database` of `gateway.log.database`, as far as a lane asks it."""

    def usable(self, connection: Pooled) -> bool: ...
    async def take(self, timeout: float | None = None) -> Pooled: ...
    async def give_back(self, connection: Pooled) -> None: ...
    def judge(self, connection: Pooled | None, error: BaseException) -> None: ...
    def discard(self, connection: Pooled | None) -> None: ...
    async def unconfirmed(self, pid: int) -> bool: ...


class Lane:
    """A connection of the pool, replaced when it has failed or was lost. `keep`: it is held between statements too.

    `timeout`: seconds for one statement, and as many for a connection to send it on.
    """

    def __init__(self, database: Connections, *, keep: bool, timeout: float) -> None:
        self._database = database
        self._keep = keep
        self._timeout = timeout
        self._connection: Pooled | None = None
        self._given_up: int | None = None  # the server's process that had not answered in time

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record:
        """The one row that a statement gives.

        Raises Unavailable, whose cause says what happened: NotSent where there was no connection to send it on.
        """
        try:
            connection = self._connection
            if connection is None or not self._database.usable(connection):
                await self.close()
                await self._await_standby()
                connection = self._connection = await self._database.take(self._timeout)
        except (*FAULTS, Unavailable) as error:
            raise NotSent from error
        try:
            row = await connection.fetchrow(statement, *arguments, timeout=self._timeout)
        except FAULTS as error:
            if isinstance(error, TimeoutError):
                self._given_up = connection.get_server_pid()
            self._database.judge(self._connection, error)
            await self.close()
            raise translated(error) from error
        except BaseException:
            self._database.discard(self._connection)  # cancelled in the middle of a statement: its state is unknown
            await self.close()
            raise
        if not self._keep:
            await self.close()
        assert row is not None, "such a statement gives one row"
        return row

    async def _await_standby(self) -> None:
        """Waits while what this lane has given up waits for a synchronous standby. Raises TimeoutError, Unavailable.

        It is committed, but no reader may see it before it is confirmed, so it is not cancelled; and were it left
        alone, each try would leave one more process on the server, until there is no room for readers.
        """
        if self._given_up is not None:
            async with asyncio.timeout(self._timeout):
                while await self._database.unconfirmed(self._given_up):  # noqa: ASYNC110  a server tells nobody
                    await asyncio.sleep(_LOOK)
            self._given_up = None

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*FAULTS):  # it has failed already, which was reported
                await self._database.give_back(connection)


def translated(error: BaseException) -> Unavailable:
    """The driver's error as the protocol's."""
    if isinstance(error, asyncpg.DiskFullError) and error.server_source_function == "SlruReportIOError":
        return Unavailable()  # a notification found no room, when what it tells of was committed already
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError | asyncpg.DiskFullError):
        return NotWritable()
    return StreamHeld() if isinstance(error, asyncpg.LockNotAvailableError) else Unavailable()
