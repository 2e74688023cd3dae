"""Flue servers, each with the gateway of its Machine before it, over one Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.databases import Postgres
from tests.flue2.rig import built
from tests.tools.flue_server import FlueServer

LEASE = 3.0  # seconds, of a submission; Flue's own are 30, and it renews them each 10
FLUE = {"LEASE_MS": f"{LEASE * 1000:.0f}", "INTERVAL_RATE": "10", "TOKENS_PER_SECOND": "200"}


@dataclass
class Pair:
    """A Machine: an app, and the gateway before it."""

    app: FlueServer


@dataclass
class House:
    machines: list[Pair]
    database_url: str


@asynccontextmanager
async def furnished(postgres: Postgres, count: int = 3) -> AsyncIterator[House]:
    """All of it, until the block ends."""
    folder = built()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(postgres.database())
        machines = []
        for _ in range(count):  # one after the other: the first makes Flue's tables
            app = await stack.enter_async_context(FlueServer.start(folder, url, env=FLUE))
            machines.append(Pair(app))
        yield House(machines, url)
