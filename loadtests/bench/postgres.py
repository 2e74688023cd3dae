"""The bench's own Postgres: fsync on, nothing tuned away, one fresh database for whoever needs one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from gateway.embedded import EmbeddedPostgres
from loadtests.bench.processes import Cpu, Failed, cpu

CRASH_PATIENCE = 60.0


class Postgres:
    """A running server; as a context manager it is stopped at the end."""

    def __init__(self, folder: Path) -> None:
        self._embedded = EmbeddedPostgres(folder)
        self._made = 0

    async def __aenter__(self) -> Self:
        await self._embedded.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._embedded.stop()

    @property
    def version(self) -> str:
        return self._embedded.version

    def cpu(self) -> Cpu:
        """Of the server and its backends, those that have ended too."""
        assert self._embedded.pid is not None, "it is ours"
        return cpu([self._embedded.pid])

    async def crash(self) -> None:
        """Kills the postmaster by SIGKILL, and returns when its successor answers. Raises Failed."""
        killed = self._embedded.pid
        assert killed is not None, "it is ours"
        os.kill(killed, signal.SIGKILL)
        try:
            async with asyncio.timeout(CRASH_PATIENCE):
                while not await self._succeeded(killed):  # noqa: ASYNC110 - another process is waited for
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise Failed(f"Postgres did not come back within {CRASH_PATIENCE:g} s") from None

    async def _succeeded(self, killed: int) -> bool:
        if self._embedded.pid in (None, killed):
            return False
        try:
            await self.execute("SELECT 1")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    async def create(self) -> str:
        """The address of a new database, with everything that came before written out."""
        self._made += 1
        name = f"bench_{self._made}"
        await self.execute(f"CREATE DATABASE {name}")
        await self.execute("CHECKPOINT")
        return urlunsplit(urlsplit(self._embedded.dsn)._replace(path=f"/{name}"))

    async def drop(self, address: str) -> None:
        await self.execute(f"DROP DATABASE {urlsplit(address).path[1:]} WITH (FORCE)")

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self._embedded.dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
