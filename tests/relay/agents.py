"""The agent server of agent_server.py as a process that tests start, direct and kill."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import httpx

PATIENCE = 60.0  # seconds that anything may take: a busy machine is no fault


class Case:
    """One answer: what is asked has to contain `name`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.name = f"case-{uuid.uuid4().hex}"
        self._http = http
        self.said = ""

    async def say(self, *texts: str) -> Self:
        """The next texts of the answer, one frame each."""
        self.said += "".join(texts)
        return await self._direct({"say": list(texts)})

    async def raw(self, data: bytes) -> Self:
        """The next bytes of the answer, as they are."""
        return await self._direct({"raw": data.decode("latin-1")})

    async def finish(self, *texts: str) -> Self:
        """The answer ends as its dialect has it, after these texts."""
        self.said += "".join(texts)
        return await self._direct({"say": list(texts)}, {"finish": True})

    async def end(self) -> Self:
        """The response ends, and nothing says that the answer does."""
        return await self._direct({"end": True})

    async def cut(self) -> Self:
        """The connection ends in the middle."""
        return await self._direct({"cut": True})

    async def decorate(self, how: str) -> Self:
        """Each frame is sent with one of dialects.DECORATIONS."""
        return await self._direct({"decoration": how})

    async def until(self, **seen: int) -> dict[str, Any]:
        """Waits until so many calls have been made (`calls`), clients have gone (`left`), answers are done (`done`)."""
        response = await self._http.get(f"/control/{self.name}", params=seen)
        state: dict[str, Any] = response.raise_for_status().json()
        return state

    async def calls(self) -> int:
        """How often the agent server was asked for this answer."""
        count: int = (await self.until())["calls"]
        return count

    async def _direct(self, *steps: dict[str, Any]) -> Self:
        (await self._http.post(f"/control/{self.name}", json=steps)).raise_for_status()
        return self


class AgentServer:
    """A process at `url`, where it is again after `restart`."""

    def __init__(self, page: Path | None) -> None:
        self._page = page
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._http: httpx.AsyncClient

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls, page: Path | None = None) -> AsyncIterator[AgentServer]:
        """One that listens, until the block ends. `page`: a folder whose files it serves."""
        server = cls(page)
        await server.restart()
        limits = httpx.Limits(max_keepalive_connections=0)  # it may have been killed since
        try:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE, limits=limits) as http:
                server._http = http
                yield server
        finally:
            await server.kill()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def case(self) -> Case:
        """A new answer, of which nothing is written yet."""
        return Case(self._http)

    async def unknown(self) -> list[str]:
        """What it was asked that such a server does not know, as `GET /path`."""
        asked: list[str] = (await self._http.get("/control/unknown")).json()
        return asked

    async def restart(self) -> None:
        """Starts a process at the port of the one before, which has ended."""
        page = [] if self._page is None else [str(self._page)]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.relay.agent_server", str(self.port), *page, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            self.port = int(await self._process.stdout.readline())

    async def kill(self) -> None:
        """SIGKILL; nothing when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
