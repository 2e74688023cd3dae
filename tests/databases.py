"""Postgres for tests: one server for the session, a fresh database for a test, and servers that may be broken.

Law: tests get databases from here and from nowhere else; nothing here knows what is in them but `migrate`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from gateway.embedded import EmbeddedPostgres


class Postgres:
    """A server: databases are made on it by name, or cloned from one that has been migrated once."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._template: str | None = None

    def dsn(self, name: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """The URL of a migrated database of its own, gone afterwards whoever is still connected to it."""
        template = await self._migrated()
        name = f"test_{uuid4().hex}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.dsn(name)
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _migrated(self) -> str:
        if self._template is None:
            from gateway.log.migrations import migrate

            name = f"template_{uuid4().hex}"
            await self.execute(f"CREATE DATABASE {name}")
            self._template = name
            await migrate(self.dsn(name))
        return self._template

    async def drop_template(self) -> None:
        if self._template is not None:
            await self.execute(f"DROP DATABASE {self._template} WITH (FORCE)")


class OwnPostgres(Postgres):
    """A server for one test, which may stop it, crash it and start it again; its URL stays the same."""

    def __init__(self, data_dir: Path) -> None:
        self.embedded = EmbeddedPostgres(data_dir)
        super().__init__("")

    async def start(self) -> None:
        self.url = await self.embedded.start()

    async def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        await self.embedded.stop(mode)

    async def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Returns when it answers again."""
        await self.stop(mode)
        await self.start()


@asynccontextmanager
async def session_postgres(data_dir: Path) -> AsyncIterator[Postgres]:
    """The server of TEST_DATABASE_URL, or else an embedded one."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        server = Postgres(given)
        try:
            yield server
        finally:
            await server.drop_template()
    else:
        async with EmbeddedPostgres(data_dir) as embedded:
            yield Postgres(embedded.dsn)
