"""One server process of a Flue app that keeps its runs in Postgres: begun, killed and ended as a platform does it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qs, urlsplit

from tests.machines import free_port

LOOPBACK = Path(__file__).parent / "loopback.mjs"
PATIENCE = 60.0  # seconds for a server to listen
_BETWEEN = 0.05  # seconds between two tries to connect to it


class FlueFailed(Exception):
    """The process ended, or stayed silent, instead of listening."""


class FlueServer:
    """A server of the built app in `folder`, which has a Node of its own; a killed one may be started again.

    `clock_rate`: how many times as fast its time-outs run; where nothing happens it waits for 30 s.
    """

    def __init__(
        self, folder: Path, database_url: str, clock_rate: float = 1, env: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._env = _database(database_url) | {"PORT": str(self.port), "CLOCK_RATE": str(clock_rate), **env}
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, folder: Path, database_url: str, clock_rate: float = 1, env: Mapping[str, str] = MappingProxyType({})
    ) -> AsyncIterator[FlueServer]:
        """A server that listens, until the block ends."""
        server = cls(folder, database_url, clock_rate, env)
        try:
            await server.launch()
            yield server
        finally:
            await server.kill()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def launch(self) -> None:
        """Returns when it listens. Raises FlueFailed."""
        self._process = await asyncio.create_subprocess_exec(
            str(self._folder / "node_modules" / ".bin" / "node"),
            "--import",
            str(LOOPBACK),
            "dist/server.mjs",
            cwd=self._folder,
            env={**os.environ, **self._env},
            stdin=asyncio.subprocess.PIPE,  # never written to: it ends with this process, and the server with it
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(PATIENCE):
                while not await self._listens():
                    if self._process.returncode is not None:
                        raise FlueFailed(f"the Flue server ended at once, with code {self._process.returncode}")
                    await asyncio.sleep(_BETWEEN)
        except TimeoutError as error:
            await self.kill()
            raise FlueFailed(f"the Flue server did not listen within {PATIENCE:g} s") from error

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing happens when it has ended."""
        if self.running:
            assert self._process is not None, "it runs"
            self._process.send_signal(number)

    async def kill(self) -> None:
        """SIGKILL; nothing when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def terminate(self) -> None:
        """SIGTERM, as a deploy sends it, and then its end."""
        assert self._process is not None, "it has been launched"
        self.send_signal(signal.SIGTERM)
        await self._process.wait()


def _database(url: str) -> dict[str, str]:
    """An address of Postgres for the app's driver, which takes a socket's folder from the environment alone."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host")
    if folder is None:
        return {"DATABASE_URL": url}
    port = parse_qs(parts.query).get("port", [str(parts.port or 5432)])[0]
    user = {"PGUSER": parts.username} if parts.username else {}
    return {"DATABASE_URL": f"postgres://{parts.path}", "PGHOST": folder[0], "PGPORT": port, **user}
