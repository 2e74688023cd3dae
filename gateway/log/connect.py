"""One connection to Postgres: how it is opened, how long it may be used, and what stands in between.

Knows nothing of the log: `gateway.log.database` keeps a pool of these, the listener one of its own.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import asyncpg
from asyncpg.protocol import protocol as driver

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# What a lost, refused or overloaded database looks like from here.
FAULTS: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# After which the connection itself is in doubt: the server has gone, or does not answer.
LOSSES: Final = (
    OSError,  # TimeoutError is one
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
)

_SILENCE: Final = 10  # seconds: a peer that has not answered for so long is not there any more
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_ECHO: Final = 1.0  # seconds for a notification to come back
_PROBE: Final = "run_gateway_probe"
_FIRST_OWN_OID: Final = 16_384  # FirstNormalObjectId, access/transam.h: those below are the catalog's
_NOT_ASKED: Final = SimpleNamespace(name="none")  # the driver looks whether its question took a statement's place

# Of every element of an array the driver asks two abstract classes whether it is one itself: a fifth of a microsecond
# each, more than all else that it does with it. Ours are lists, and what is in them is none.
for _name in ("IterableABC", "SizedABC"):
    if hasattr(driver, _name):  # its own business: elsewhere it may be called otherwise, and is slower then
        setattr(driver, _name, (list, tuple))


class LogConnection(Connection):
    """A connection without session state: nothing to reset when it goes back, so no round trip for it.

    Nor does each ask the server anew what the types are that statements use, for which the driver takes four.
    """

    born = 0.0  # by the loop's clock
    retires = float("inf")
    _types: ClassVar[list[tuple[frozenset[int], Any]]] = []  # what was asked about, and the answer

    def get_reset_query(self) -> str:
        return ""

    async def _introspect_types(self, oids: Collection[int], timeout: float) -> tuple[Any, Any]:
        """The driver's own question. Types of the catalog are the same in every Postgres, and asked for once."""
        asked = frozenset(oids)
        for known, types in self._types:
            if asked <= known:
                return types, _NOT_ASKED
        types, statement = await super()._introspect_types(oids, timeout)  # type: ignore[misc]
        if max(asked) < _FIRST_OWN_OID:
            self._types.append((asked, types))
        return types, statement


async def connect(
    dsn: str,
    *,
    timeout: float,
    command_timeout: float | None = None,
    cached: bool = False,
    max_age: float = float("inf"),
    **options: Any,
) -> LogConnection:
    """Opens a connection; `timeout` and `command_timeout` are seconds, as is `max_age`, which is shortened by up to a
    fifth so that not all retire at once. Raises one of FAULTS.

    `cached`: prepared statements are kept, one round trip each instead of two. Only where they hold: see below.
    """
    connection: LogConnection = await asyncpg.connect(
        dsn,
        **{
            "connection_class": LogConnection,
            "timeout": timeout,
            "command_timeout": command_timeout,
            "statement_cache_size": 100 if cached else 0,
            "max_cached_statement_lifetime": 0,  # the connection's own is enough, and no statement is prepared twice
            # No other server_settings: a PgBouncer refuses them.
            "server_settings": {"application_name": "run-gateway"},
            **options,
        },
    )
    connection.born = asyncio.get_running_loop().time()
    connection.retires = connection.born + max_age * random.uniform(0.8, 1)
    # A statement goes to the kernel at once, and not after all else that this turn of the loop has to do.
    connection._transport.set_write_buffer_limits(0)  # type: ignore[attr-defined]
    _keep_honest(connection)
    return connection


def _keep_honest(connection: Connection) -> None:
    """A peer that vanishes without a word is noticed by the kernel, though nothing is said meanwhile."""
    sock = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_KEEPALIVE, "TCP_USER_TIMEOUT": _SILENCE * 1000}.items():
        option = getattr(socket, name, None)  # not every platform has each
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def keeps_statements(open: Callable[[], Awaitable[LogConnection]]) -> bool:
    """Whether a statement that a connection has prepared is its own, and still there in its next transaction.

    Not behind a pooler in transaction mode that knows nothing of prepared statements, where the name may be another
    client's by then: doubt means no. `open` gives connections that keep none. Raises one of FAULTS.
    """
    connection = await open()
    try:
        if connection.get_server_pid() == await connection.fetchval("SELECT pg_backend_pid()"):
            return True  # a pooler makes up the pid that it tells
        return await _names_are_translated(connection) or await hears(connection, open)
    finally:
        connection.terminate()


async def _names_are_translated(connection: LogConnection) -> bool:
    """PgBouncer >= 1.21 with max_prepared_statements gives statements names of its own, and brings them along."""
    name = f"{_PROBE}_{secrets.token_hex(4)}"
    async with connection.transaction():
        prepared = await connection.prepare("SELECT 1", name=name)
        found = await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name = $1", name)
        del prepared  # only now: the driver closes what nobody holds
        if found:
            await connection.execute(f"DEALLOCATE {name}")
    return not found


async def hears(connection: LogConnection, open: Callable[[], Awaitable[LogConnection]]) -> bool:
    """Whether what is notified on another connection arrives on this one. Raises one of FAULTS.

    Between its transactions a client is told of notifications only where its backend is its own.
    """
    heard = asyncio.Event()
    nonce = secrets.token_hex(8)
    await connection.add_listener(_PROBE, lambda *message: heard.set() if message[-1] == nonce else None)
    other = await open()
    try:
        await other.execute("SELECT pg_notify($1, $2)", _PROBE, nonce)
        with suppress(TimeoutError):
            await asyncio.wait_for(heard.wait(), _ECHO)
    finally:
        other.terminate()
    return heard.is_set()
