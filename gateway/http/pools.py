"""Connections to one upstream, in pools of a few.

httpcore looks at every request and connection of a pool whenever one comes or goes. With 1,500 requests in one pool
that takes milliseconds, each time. So a pool is given SHARE requests at most, and the first that has room is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpcore

SHARE: Final = 64  # requests of one pool under way at a time


class Pools:
    """Pools of connections, made by `make` as they are needed."""

    def __init__(self, make: Callable[[], httpcore.AsyncConnectionPool]) -> None:
        self._make = make
        self._pools: dict[httpcore.AsyncConnectionPool, int] = {}  # and how many requests of each are under way

    @asynccontextmanager
    async def stream(self, *request: Any, **more: Any) -> AsyncIterator[httpcore.Response]:
        """Sends a request by the first pool that has room, as httpcore's own. Raises what that raises."""
        pool = next((pool for pool, busy in self._pools.items() if busy < SHARE), None)
        if pool is None:
            pool = self._make()
        self._pools[pool] = self._pools.get(pool, 0) + 1
        try:
            async with pool.stream(*request, **more) as response:
                yield response
        finally:
            self._pools[pool] -= 1

    async def aclose(self) -> None:
        """Closes the connections that are kept for later requests."""
        await asyncio.gather(*(pool.aclose() for pool in self._pools))
