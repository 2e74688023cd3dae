"""Requests to an upstream: none is one of so many that its pool takes long to look at them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpcore
import pytest

from gateway.http.pools import SHARE, Pools


class Pool:
    """Counts what is under way in it."""

    def __init__(self) -> None:
        self.busy = self.most = self.had = 0
        self.closed = False

    @asynccontextmanager
    async def stream(self, method: str, **_: Any) -> AsyncIterator[str]:
        self.busy += 1
        self.had += 1
        self.most = max(self.most, self.busy)
        try:
            if method == "BREAK":
                raise httpcore.ReadError
            yield method
        finally:
            self.busy -= 1

    async def aclose(self) -> None:
        self.closed = True


async def test_requests_share_pools_of_a_few() -> None:
    made: list[Pool] = []

    def make() -> httpcore.AsyncConnectionPool:
        made.append(Pool())
        return cast("httpcore.AsyncConnectionPool", made[-1])

    pools, leave = Pools(make), asyncio.Event()

    async def ask() -> None:
        async with pools.stream("GET", extensions={}) as response:
            assert cast("Any", response) == "GET"
            await leave.wait()

    asking = [asyncio.create_task(ask()) for _ in range(3 * SHARE)]
    await asyncio.sleep(0)
    assert [pool.busy for pool in made] == [SHARE] * 3
    leave.set()
    await asyncio.gather(*asking)
    for _ in range(2 * SHARE):
        with pytest.raises(httpcore.ReadError):
            async with pools.stream("BREAK"):
                pass
    assert [pool.had for pool in made] == [3 * SHARE, SHARE, SHARE], "one after another, they keep to the first"
    await pools.aclose()
    assert all(pool.closed and not pool.busy and pool.most == SHARE for pool in made)
