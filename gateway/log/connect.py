"""A connection to Postgres: how it is opened, how long it may be used, and whether a pooler is in between.

Knows nothing of the log: `gateway.log.database` keeps a pool of these, the listener one of its own.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

import asyncpg
from asyncpg.protocol import protocol as driver

from gateway.log.address import Trust, read

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

# What the driver raises for a database that is lost, refuses, or is overloaded.
FAULTS: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

# After these the connection itself is in doubt: the server has gone, or does not answer.
LOSSES: Final = (
    OSError,  # TimeoutError is one
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
)

_SILENCE: Final = 10  # seconds after which a peer that does not answer counts as gone
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_ECHO: Final = 1.0  # seconds for a notification to come back
_PROBE: Final = "run_gateway_probe"
_STANDBY: Final = "SyncRep"  # src/backend/replication/syncrep.c: SyncRepWaitForLSN
# What a session of ours has, whatever a role or a database says. Limits would cut a commit's wait for its synchronous
# standby short, or end connections that wait for work; the pool has limits of its own. And the server looks each second
# whether its client is still there: what has been given up ends, unless it waits for the standby, where it may not. Not
# every version of Postgres, nor every system that it runs on, has each.
_SETTINGS: Final = {
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "client_connection_check_interval": "1000",  # milliseconds
}
_SESSION: Final = """
    SELECT pg_backend_pid() AS pid,
           ARRAY(SELECT name FROM pg_settings WHERE name = ANY ($1::text[])
                    AND (name <> 'client_connection_check_interval' OR version() ~ 'linux|darwin|bsd')) AS settings
"""
_FIRST_OWN_OID: Final = 16_384  # FirstNormalObjectId, access/transam.h: those below are the catalog's
_NOT_ASKED: Final = SimpleNamespace(name="none")  # for the driver, which checks the name of the statement that it used

# For every element of an array the driver checks against two abstract classes whether it is an array itself. That
# takes a fifth of a microsecond for each, more than all else that it does with it. Our arrays are lists, and none has
# lists inside.
for _name in ("IterableABC", "SizedABC"):
    if hasattr(driver, _name):  # a private name: a version that has another one works too, and is slower
        setattr(driver, _name, (list, tuple))


class Unconfirmed(asyncpg.InterfaceError):
    """A transaction was committed here, and no synchronous standby has confirmed it: it may be lost by a failover."""


class LogConnection(Connection):
    """A connection without session state, so that no round trip is needed to reset it when it goes back to the pool.

    Nor does every connection ask the server for the types that statements use, which takes the driver four round trips.
    """

    born = 0.0  # by the loop's clock
    retires = float("inf")
    _types: ClassVar[list[tuple[frozenset[int], Any]]] = []  # what was asked about, and the answer

    def get_reset_query(self) -> str:
        return ""

    def _process_log_message(self, fields: dict[str, str], last_query: str) -> None:
        """Overrides the driver's method, which is called in the middle of an answer: what is raised here becomes the
        answer.

        A wait for the synchronous standby that is cut short (by a statement_timeout, by pg_cancel_backend) is reported
        by a WARNING, and then as a success. The WARNING is found by a function of the server, whose name is not
        translated.
        """
        if fields.get("R", "").startswith(_STANDBY):
            raise Unconfirmed("The wait for the synchronous standby was cut short.")
        super()._process_log_message(fields, last_query)  # type: ignore[misc]

    async def _introspect_types(self, oids: Collection[int], timeout: float) -> tuple[Any, Any]:
        """Overrides the driver's method: types of the catalog are equal everywhere, so they are asked for once."""
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
    settings: Mapping[str, str] | None = None,
    **options: Any,
) -> LogConnection:
    """Opens a connection; `timeout` and `command_timeout` are seconds, as is `max_age`, which is shortened by up to a
    fifth so that not all retire at once. Raises one of FAULTS.

    A `connect_timeout` in `dsn` replaces `timeout`; what else an address may say: see gateway.log.address.
    `cached`: prepared statements are kept, one round trip each instead of two. Only where they hold: see below.
    `settings` are the session's, before those of its role and database; a PgBouncer refuses them.
    """
    address = read(dsn)
    connection: LogConnection = await asyncpg.connect(
        address.dsn,
        **{
            "connection_class": LogConnection,
            "timeout": address.connect_timeout or timeout,
            "command_timeout": command_timeout,
            "statement_cache_size": 100 if cached else 0,
            "max_cached_statement_lifetime": 0,  # the connection's own is enough, and no statement is prepared twice
            "server_settings": {"application_name": address.application_name, **(settings or {})},
            "ssl": _tls(address.trust),
            **options,
        },
    )
    connection.born = asyncio.get_running_loop().time()
    connection.retires = connection.born + max_age * random.uniform(0.8, 1)
    # Statements go to the kernel at once, not at the end of this turn of the loop.
    connection._transport.set_write_buffer_limits(0)  # type: ignore[attr-defined]
    if address.keepalive is not None:
        _keep_alive(connection, address.keepalive)
    return connection


@cache
def _tls(trust: Trust) -> ssl.SSLContext | None:
    """The context for a connection whose encryption the driver does not know how to make; None: it does."""
    if trust == "as sslmode says":
        return None
    context = ssl.create_default_context()
    if trust == "nobody is verified":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _keep_alive(connection: Connection, asked: dict[str, int]) -> None:
    """Makes the kernel notice a peer that vanished, even if nothing is sent."""
    sock = connection._transport.get_extra_info("socket")  # type: ignore[attr-defined]
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {**_KEEPALIVE, "TCP_USER_TIMEOUT": _SILENCE * 1000, **asked}.items():
        option = getattr(socket, name, None)  # not every platform has each
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Way(NamedTuple):
    """The way to the server. `settings`: what a session is to be opened with; nothing with a pooler. `by_session`: a
    pooler that lends one of its places to each connection, for as long as that is open.
    """

    keeps_statements: bool
    settings: dict[str, str]
    by_session: bool = False


async def way_to(open: Callable[[], Awaitable[LogConnection]]) -> Way:
    """Finds out whether a prepared statement is still there, and unchanged, in the connection's next transaction; and
    the settings that a session is to be opened with.

    Behind a pooler in transaction mode that does not support prepared statements it is not: the name may belong to
    another client by then. Doubt means no. `open` opens a connection that keeps no statements. Raises one of FAULTS.
    """
    connection = await open()
    try:
        session = await connection.fetchrow(_SESSION, list(_SETTINGS))
        assert session is not None, "such a statement gives one row"
        if connection.get_server_pid() == session["pid"]:
            return Way(
                True, {name: _SETTINGS[name] for name in session["settings"]}
            )  # a pooler reports a pid of its own making
        translated = await _names_are_translated(connection)
        by_session = not translated and await hears(connection, open)
        return Way(translated or by_session, {}, by_session)
    finally:
        connection.terminate()


async def _names_are_translated(connection: LogConnection) -> bool:
    """True behind PgBouncer >= 1.21 with max_prepared_statements, which gives statements names of its own."""
    name = f"{_PROBE}_{secrets.token_hex(4)}"
    async with connection.transaction():
        prepared = await connection.prepare("SELECT 1", name=name)
        found = await connection.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name = $1", name)
        del prepared  # only now: the driver closes what nobody holds
        if found:
            await connection.execute(f"DEALLOCATE {name}")
    return not found


async def hears(connection: LogConnection, open: Callable[[], Awaitable[LogConnection]]) -> bool:
    """True if a notification that is sent on another connection arrives on this one. Raises one of FAULTS.

    It arrives only if the server's side of the connection stays the client's own between its transactions.
    """
    heard = asyncio.Event()
    nonce = secrets.token_hex(8)
    try:
        await connection.add_listener(_PROBE, lambda *message: heard.set() if message[-1] == nonce else None)
    except asyncpg.ReadOnlySQLTransactionError:
        return False  # a standby
    other = await open()
    try:
        await other.execute("SELECT pg_notify($1, $2)", _PROBE, nonce)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ECHO):
                await heard.wait()
    finally:
        other.terminate()
    return heard.is_set()
