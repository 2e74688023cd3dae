"""Two Flue servers and two gateways over one Postgres."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.databases import Postgres
from tests.flue.real.rig import built
from tests.machines import Machine
from tests.tools.flue_server import FlueServer
from tests.tools.proxy import Proxy

SETTINGS = {
    "GATEWAY_FLUE": "on",
    "GATEWAY_FLUE_WORKFLOWS": "ticker,chat",
    "GATEWAY_FLUE_ORPHAN_AFTER": "4",
    "GATEWAY_DRAIN_TIMEOUT": "3",  # of 1 s a drain leaves 0.2 s between the last reader's end and the connection's
}


@dataclass
class House:
    """Flue A and B, gateways A and B, and a proxy that leads to gateway B until told otherwise."""

    flue_a: FlueServer
    flue_b: FlueServer
    a: Machine
    b: Machine
    proxy: Proxy
    database_url: str


@asynccontextmanager
async def furnished(postgres: Postgres) -> AsyncIterator[House]:
    """All of it, until the block ends."""
    app = built()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(postgres.database())
        # One after the other: Flue's own tables have to be there before a gateway looks for them.
        flue_a = await stack.enter_async_context(FlueServer.start(app, url))
        flue_b = await stack.enter_async_context(FlueServer.start(app, url))
        settings = SETTINGS | {"GATEWAY_UPSTREAM": flue_a.url}
        a = await stack.enter_async_context(Machine.start(url, env=settings))
        b = await stack.enter_async_context(Machine.start(url, env=settings))
        proxy = await stack.enter_async_context(Proxy(b.url))
        yield House(flue_a, flue_b, a, b, proxy, url)
