"""Machines of a Flue 2.x app, each with its gateway, over one Postgres; and what happens to Machines."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import httpx

from tests.databases import Postgres
from tests.flue2.rig import MOUNT, Clients, built
from tests.machines import Machine
from tests.tools.flue_server import FlueServer

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

FLUE: Final = {"LEASE_MS": "14000", "TOKENS_PER_SECOND": "200"}  # leases of 14 s instead of 30, renewed each 10 s
SETTINGS: Final = {
    "GATEWAY_FLUE_AGENTS": MOUNT,
    "GATEWAY_OWNED_LEASE": "2",
    "GATEWAY_DRAIN_TIMEOUT": "2",
    "GATEWAY_SSE_MAX_AGE": "300",
}
READING: Final = {"GATEWAY_FLUE_READERS": "2.1.0"}  # of the last Machine: the others show how it is without


@dataclass
class Pair:
    """A Machine: an app, and the gateway before it."""

    app: FlueServer
    gateway: Machine

    def url(self, id: str) -> str:
        """Of a conversation, through this gateway."""
        return f"{self.gateway.url}{MOUNT}/{id}"

    async def die(self) -> None:
        """SIGKILL, for both."""
        await asyncio.gather(self.gateway.kill(), self.app.kill())

    async def begin(self) -> None:
        """Starts what does not run, on the same ports."""
        if not self.app.running:
            await self.app.launch()
        await self.gateway.restart()

    async def deploy(self) -> None:
        """As a platform that sends SIGTERM to the gateway, and to the app when the gateway has ended."""
        self.gateway.send_signal(signal.SIGTERM)
        await self.gateway.wait()
        await self.app.terminate()
        await self.begin()

    async def metric(self, name: str) -> float:
        """A number of the gateway's, of all values of its label."""
        async with httpx.AsyncClient(trust_env=False) as http:
            page = (await http.get(f"{self.gateway.url}/metrics")).text
        lines = [line for line in page.splitlines() if line.startswith(f"run_gateway_{name}")]
        assert lines, f"no metric {name}"
        return sum(float(line.rpartition(" ")[2]) for line in lines)


@dataclass
class House:
    """Machines, front ends, and a look at Flue's tables."""

    machines: list[Pair]
    clients: Clients
    database: Connection
    database_url: str

    async def submissions(self, id: str) -> list[dict[str, Any]]:
        """Of a conversation, in their order."""
        rows = await self.database.fetch(
            "SELECT * FROM flue_agent_submissions WHERE session_key LIKE '%\"' || $1 || '\"%' ORDER BY sequence", id
        )
        return [dict(row) for row in rows]

    async def settled(self, id: str, *, running: bool = False) -> None:
        """Waits until its messages are settled; `running`: until the last one is being answered."""
        wanted = {"running"} if running else {"settled"}
        async with asyncio.timeout(120):
            while {each["status"] for each in await self.submissions(id)} != wanted:  # noqa: ASYNC110  it is asked
                await asyncio.sleep(0.05)

    async def tools(self, url: str) -> list[str]:
        """What became of each call of a tool, as the conversation's history says."""
        async with httpx.AsyncClient(trust_env=False) as http:
            messages = (await http.get(url)).json()["messages"]
        return [part["state"] for each in messages for part in each["parts"] if part["type"] == "dynamic-tool"]

    async def attempts(self, id: str) -> list[int]:
        """How often each of them was begun."""
        return [each["attempt_count"] for each in await self.submissions(id)]


@asynccontextmanager
async def furnished(
    postgres: Postgres, count: int = 3, flue: Mapping[str, str] = FLUE, settings: Mapping[str, str] = SETTINGS
) -> AsyncIterator[House]:
    """All of it, until the block ends."""
    folder = built()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(postgres.database())
        machines = []
        for at in range(count):  # one after the other: the first makes Flue's tables
            app = await stack.enter_async_context(FlueServer.start(folder, url, env=flue))
            env = {**settings, **(READING if at == count - 1 else {}), "GATEWAY_UPSTREAM": app.url}
            machines.append(Pair(app, await stack.enter_async_context(Machine.start(url, env=env))))
        clients = await stack.enter_async_context(Clients.start())
        database = await asyncpg.connect(url)
        stack.push_async_callback(database.close)
        yield House(machines, clients, database, url)
