"""Postgres for tests: one server for the session, a fresh database for a test, and servers that may be broken.

Law: tests get databases from here and from nowhere else; nothing here knows what is in them but `migrate`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from gateway.embedded import EmbeddedPostgres

MEMORY: Final = Path("/dev/shm")
ROOM: Final = 4 << 30  # bytes of it that have to be free
COPIED: Final = "STRATEGY FILE_COPY"  # half of the processor time of a clone by way of the WAL, which is the usual one


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for a test's files, such as the data of servers: in memory, where there is room.

    A new database takes 30 ms there, and 200 to 800 on a busy disk. A server that is killed loses as much as on
    a disk, since no host is lost here.
    """
    in_memory = _has_room()
    if in_memory:
        _remove_left_over()
    prefix = f"run-gateway-tests-{os.getpid()}-"
    place = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if in_memory else None))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _has_room() -> bool:
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK) or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return False
    return shutil.disk_usage(MEMORY).free > ROOM


def _remove_left_over() -> None:
    """Removes the folders of processes that were killed."""
    for place in MEMORY.glob("run-gateway-tests-*"):
        if not Path(f"/proc/{place.name.split('-')[3]}").exists():
            shutil.rmtree(place, ignore_errors=True)


class Postgres:
    """A server: databases are made on it by name, or cloned from one that has been migrated once."""

    def __init__(self, url: str, *, cloning: str = "") -> None:
        """`cloning`: what CREATE DATABASE is to be told besides."""
        self.url = url
        self._cloning = cloning
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
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template} {self._cloning}")
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
async def session_postgres() -> AsyncIterator[Postgres]:
    """The server of TEST_DATABASE_URL, or else an embedded one."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        server = Postgres(given)
        try:
            yield server
        finally:
            await server.drop_template()
    else:
        with folder() as place:
            async with EmbeddedPostgres(place / "data") as embedded:
                yield Postgres(embedded.dsn, cloning=COPIED)
