"""The identity of the log behind a connection. After a failover another server answers, whose log may have gone on
differently.

The log says so itself (log/sql/functions/epochs.sql): each takeover begins an epoch. Here it is only compared: a later
epoch replaces what is known, an earlier one belongs to a server that has been overtaken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import asyncpg

if TYPE_CHECKING:
    from gateway.log.connect import Connection

_IDENTIFY: Final = (
    "SELECT epoch, incarnation, writable, timeline, run_gateway.written() AS written FROM run_gateway.identify()"
)
_NEW_EPOCH: Final = "SELECT run_gateway.new_epoch($1)"

# There is no such function before the database has been migrated, and it may not be for everybody.
_CANNOT_SAY: Final = (
    asyncpg.UndefinedFunctionError,
    asyncpg.UndefinedTableError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InsufficientPrivilegeError,
)


class Overtaken(ConnectionError):
    """Another server has taken over from this one."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server as the log knows it. `writable`: it is no standby. `timeline`, and `written`, the bytes of its log of
    changes that were on disk: None where it does not say.
    """

    epoch: int
    incarnation: UUID
    writable: bool
    timeline: str | None
    written: int | None = None

    def goes_on_from(self, other: Server) -> bool:
        """True if this is the log of `other`, as it is then or later."""
        return (self.epoch, self.incarnation) == (other.epoch, other.incarnation)

    def went_back(self, before: Server | None) -> bool:
        """True if the log is at an earlier moment than `before`, an answer that came before this one was asked for."""
        if before is None or before.written is None or self.written is None or not self.goes_on_from(before):
            return False
        return self.written < before.written


async def begin_epoch(connection: Connection, server: Server) -> Server | None:
    """Begins another epoch on the server, and returns its identity. Raises what the driver raises."""
    await connection.execute(_NEW_EPOCH, server.incarnation)
    return await identify(connection)


async def identify(connection: Connection) -> Server | None:
    """The server that a connection leads to; None where it cannot say. Raises what the driver raises."""
    try:
        row = await connection.fetchrow(_IDENTIFY)
    except _CANNOT_SAY:
        return None
    assert row is not None, "a function's OUT parameters are one row"
    return Server(row["epoch"], row["incarnation"], row["writable"], row["timeline"], row["written"])
