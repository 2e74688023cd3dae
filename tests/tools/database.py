"""The Postgres that everything runs over: one of its own, which may be restarted, or a database on a given one."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg

from gateway.embedded import EmbeddedPostgres
from gateway.log.migrations import migrate
from tests.tools.disk import Disk, open_disk

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_LISTENERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND query ILIKE 'listen %'
"""
_BACKENDS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_BLOCK = "SELECT count(*) FROM (SELECT 1 FROM run_gateway.streams WHERE path = ANY ($1) FOR UPDATE) s"


class Database:
    """One database; `socket` is what a proxy forwards to, `through` the address by way of it."""

    def __init__(self, url: str, own: EmbeddedPostgres | None, disk: Disk | None = None) -> None:
        self.url = url
        self.disk = disk  # that it is on, where it may be filled
        self._own = own

    @property
    def own(self) -> bool:
        """Whether it may be restarted."""
        return self._own is not None

    @property
    def socket(self) -> str:
        parts, query = urlsplit(self.url), parse_qs(urlsplit(self.url).query)
        if parts.hostname is not None:
            return f"tcp://{parts.hostname}:{parts.port or 5432}"
        return f"unix:{query['host'][0]}/.s.PGSQL.{query.get('port', ['5432'])[0]}"

    def through(self, port: int) -> str:
        """The same database behind a port of this host."""
        parts = urlsplit(self.url)
        login, at, _ = parts.netloc.rpartition("@")
        query = "" if parts.hostname is None else parts.query  # it named the socket
        return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{port}", query=query))

    async def restart(self, mode: Literal["fast", "immediate"]) -> None:
        """Returns when it answers again."""
        assert self._own is not None, "ours to restart"
        await self._own.stop(mode)
        await self._own.start()

    async def terminate_listeners(self) -> None:
        await self._execute(_LISTENERS)

    async def terminate_backends(self) -> None:
        await self._execute(_BACKENDS)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection of its own, for one question. Raises what `GONE` lists when there is no Postgres."""
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            connection.terminate()  # it may have been ended by a fault

    @asynccontextmanager
    async def blocking(self, paths: Sequence[str]) -> AsyncIterator[None]:
        """Somebody's transaction sits idle in front of these streams' rows."""
        async with self.connection() as connection, connection.transaction():
            await connection.fetchval(_BLOCK, list(paths))
            yield

    async def _execute(self, statement: str) -> None:
        async with self.connection() as connection:
            await connection.execute(statement)


@asynccontextmanager
async def open_database(given: str | None, folder: Path) -> AsyncIterator[Database]:
    """A migrated database, gone afterwards: in a Postgres of its own, or on the server of `given`."""
    if given is None:
        with open_disk(folder) as disk:
            async with EmbeddedPostgres(folder / "data") as own:
                await migrate(own.dsn)
                yield Database(own.dsn, own, disk)
        return
    name = f"survival_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(given)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
        url = urlunsplit(urlsplit(given)._replace(path=f"/{name}"))
        await migrate(url)
        yield Database(url, None)
    finally:
        await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        await admin.close()
