"""A real Flue app, installed from npm and built on demand, and its servers over one Postgres, on loopback alone.

Where Node or the download is not to be had, the tests that ask for it are skipped, which fails in CI (tests/node.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.machines import free_port
from tests.node import Script, npm_ci, unavailable

APP = Path(__file__).parent / "app"
_PATIENCE = 30.0  # seconds for a server to listen


@functools.cache
def built() -> Path:
    """The app's folder, with its packages and its server. Skips the test where they cannot be had."""
    if os.uname().sysname != "Linux" or os.uname().machine != "x86_64":
        unavailable("the Flue app's own Node comes for Linux on x86-64 alone")
    npm_ci(APP)
    with open(APP / "node_modules" / ".build-lock", "w") as lock:  # one process of a test run builds, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = APP / "dist" / f".built-{_fingerprint()}"
        if not stamp.exists():
            flue = ["node_modules/.bin/node", "node_modules/.bin/flue", "build", "--target", "node"]
            done = subprocess.run(flue, cwd=APP, capture_output=True, text=True, timeout=120)
            if done.returncode:
                pytest.fail(f"the Flue app does not build:\n{done.stdout}{done.stderr}", pytrace=False)
            stamp.touch()
    return APP


def _fingerprint() -> str:
    """Of all that the server is built from."""
    sources = hashlib.sha256()
    for path in sorted([APP / "package-lock.json", *APP.glob("src/**/*.ts")]):
        sources.update(path.read_bytes())
    return sources.hexdigest()[:16]


class FlueServer:
    """One server process of the app; a killed one may be started again.

    `clock_rate`: how many times as fast its timers run; where nothing happens it waits for 30 s.
    """

    def __init__(self, database_url: str, clock_rate: float = 1) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._env = database(database_url) | {"PORT": str(self.port), "CLOCK_RATE": str(clock_rate)}
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, database_url: str, clock_rate: float = 1) -> AsyncIterator[FlueServer]:
        """A server that listens, until the block ends."""
        server = cls(database_url, clock_rate)
        try:
            await server.launch()
            yield server
        finally:
            await server.kill()

    async def launch(self) -> None:
        """Returns when it listens."""
        self._process = await asyncio.create_subprocess_exec(
            str(built() / "node_modules" / ".bin" / "node"),
            "--import",
            "./loopback.mjs",
            "dist/server.mjs",
            cwd=APP,
            env={**os.environ, **self._env},
            stdin=asyncio.subprocess.PIPE,  # never written to: it ends with this process, and the server with it
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(_PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                assert self._process.returncode is None, "the Flue server ended at once"
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """SIGKILL; nothing when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def terminate(self) -> None:
        """SIGTERM, as a deploy sends it, and then its end."""
        assert self._process is not None
        self._process.terminate()
        await self._process.wait()

    async def invoke(self, workflow: str, **input: Any) -> str:
        """Starts a run; its id."""
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            response = await http.post(f"{self.url}/workflows/{workflow}", json=input)
        assert response.status_code == 202, response.text
        run: str = response.json()["runId"]
        return run


def database(url: str) -> dict[str, str]:
    """An address of Postgres for the app's driver, which takes a socket's folder from the environment alone."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query).get("host")
    if folder is None:
        return {"DATABASE_URL": url}
    port = parse_qs(parts.query).get("port", [str(parts.port or 5432)])[0]
    user = {"PGUSER": parts.username} if parts.username else {}
    return {"DATABASE_URL": f"postgres://{parts.path}", "PGHOST": folder[0], "PGPORT": port, **user}


def follow(url: str, run: str, how: str) -> Any:
    """A front end that follows the run at this server: `Script` of app/follow.mjs."""
    return Script.start(built() / "follow.mjs", json.dumps({"url": url, "run": run, "how": how}))


def items(lines: list[Any]) -> list[Any]:
    return [line["item"] for line in lines if "item" in line]


async def ended(url: str, run: str) -> list[Any]:
    """Waits until the run has ended, by asking the server for its record; all its events."""
    async with httpx.AsyncClient(base_url=url, timeout=10, trust_env=False) as http:
        async with asyncio.timeout(60):
            while (await http.get(f"/runs/{run}?meta")).json()["status"] == "active":  # noqa: ASYNC110  it is asked
                await asyncio.sleep(0.1)
        events: list[Any] = (await http.get(f"/runs/{run}?offset=-1")).json()
        return events
