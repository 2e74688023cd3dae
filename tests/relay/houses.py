"""Two Machines over one database, in front of one agent server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.databases import Postgres
from tests.relay.agent import Agent, Call
from tests.relay.client import Response
from tests.servers import Running, serving


def key(name: str) -> dict[str, str]:
    """The credential of someone of `keyed`."""
    return {"authorization": f"Bearer {name.replace('@', '-at-')}-secret-of-16-chars"}


def keyed(scopes: Mapping[str, str]) -> dict[str, str]:
    """Settings by which these names need their keys: `name@tenant`, and the scopes of each."""
    keys = (f"{name}:{these}:{key(name)['authorization'][7:]}" for name, these in scopes.items())
    return {"auth": "keys", "keys": " ".join(keys)}


@dataclass
class House:
    """The agent server, and the Machines."""

    agent: Agent
    one: Running
    other: Running
    database_url: str

    async def begun(self, response: Response, *frames: bytes, headers: dict[str, str] | None = None) -> Call:
        """The call that has come of a POST, once its client has these frames."""
        call = await self.agent.call()
        await call.begin(headers=headers)
        await call.say(*frames)
        for frame in frames:
            await response.until(frame)
        return call


@asynccontextmanager
async def house_of(postgres: Postgres, **settings: Any) -> AsyncIterator[House]:
    """Both Machines, with these settings."""
    async with postgres.database() as url, AsyncExitStack() as stack:
        agent = await stack.enter_async_context(Agent.start())
        settings = {"upstream": agent.url, "relay_drain": 0, **settings}
        one = stack.enter_context(serving(url, "direct", **settings))
        other = stack.enter_context(serving(url, "direct", **settings))
        yield House(agent, one, other, url)
