"""Houses for the tests: each has a stateful chat server and the gateway before it, and all share one database.

A journal has what reached each of the servers.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.machines import Machine
from tests.owner.apps import App

LEASE: Final = 2
OWNED: Final = "/chat/{id}"
SETTINGS: Final = {"GATEWAY_OWNED": OWNED, "GATEWAY_OWNED_LEASE": str(LEASE), "GATEWAY_HOUSEKEEPING_INTERVAL": "3600"}


@dataclass
class House:
    """`gateway` before `app`. `http` goes to the gateway."""

    app: App
    gateway: Machine
    http: httpx.AsyncClient

    @property
    def pid(self) -> int:
        """The application's process, as it names itself in its answers."""
        return self.app.pid

    async def say(self, name: str, text: str = "hello", **more: object) -> httpx.Response:
        """A message to a session."""
        return await self.http.post(f"/chat/{name}", json={"text": text, **more})

    async def owner(self, name: str) -> int:
        """The process that answers for a session, asked here."""
        answer = await self.http.get(f"/chat/{name}")
        pid: int = answer.json()["pid"]
        return pid

    async def metric(self, name: str, label: str = "") -> float:
        """A number of the gateway's, without the prefix."""
        page = (await self.http.get("/metrics")).text
        found = [line for line in page.splitlines() if line.startswith(f"run_gateway_{name}") and label in line]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def freeze(self) -> None:
        os.kill(self.gateway.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.gateway.pid, signal.SIGCONT)


@dataclass
class Scene:
    """Houses over one database."""

    database_url: str
    journal: Path
    stack: AsyncExitStack
    houses: list[House] = field(default_factory=list)

    async def house(self, env: Mapping[str, str] | None = None, database_url: str | None = None) -> House:
        """One more."""
        app = App(self.journal)
        self.stack.push_async_callback(app.kill)
        await app.launch()
        gateway = await self.stack.enter_async_context(
            Machine.start(
                database_url or self.database_url, env={**SETTINGS, "GATEWAY_UPSTREAM": app.url, **(env or {})}
            )
        )
        http = await self.stack.enter_async_context(httpx.AsyncClient(base_url=gateway.url, timeout=60))
        self.houses.append(House(app, gateway, http))
        return self.houses[-1]

    def writes(self, name: str | None = None) -> list[dict[str, Any]]:
        """What the journal has of a session, in the order of time."""
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return sorted((line for line in lines if name in (None, line["id"])), key=lambda line: line["at"])


@asynccontextmanager
async def scene(database_url: str, folder: Path) -> AsyncIterator[Scene]:
    """Houses that end with the block."""
    journal = folder / "journal"
    journal.touch()
    async with AsyncExitStack() as stack:
        yield Scene(database_url, journal, stack)


async def until(condition: Any, seconds: float = 30) -> Any:
    """Waits until a coroutine function returns something true, and returns that."""
    async with asyncio.timeout(seconds):
        while True:
            found = await condition()
            if found:
                return found
            await asyncio.sleep(0.05)
