"""Requests to an upstream: none is one of so many that all of them together take long, in a pool or in a turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpcore
import pytest

from gateway.http import informational
from gateway.http.pools import SHARE, Pools
from gateway.tasks import WOKEN


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


class Answers(httpcore.AsyncNetworkStream):
    """A connection whose answer comes when all others' do, and goes on so."""

    def __init__(self, here: asyncio.Event) -> None:
        self.closed = False
        self._here = here

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await self._here.wait()
        return b"HTTP/1.1 200 OK\r\n"

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    async def aclose(self) -> None:
        self.closed = True


async def most_in_a_turn(count: int, steps: list[int]) -> int:
    """As many of these steps as go on in one turn of the loop, until there have been `count`."""
    most = before = 0
    while len(steps) < count:
        await asyncio.sleep(0)
        most, before = max(most, len(steps) - before), len(steps)
    return most


async def test_answers_that_come_together_are_read_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """So are the connections on which requests are written, and the pieces that come then."""
    here, many, steps = asyncio.Event(), 300, list[int]()
    backend = informational.Backend()

    async def connected(*_: object) -> httpcore.AsyncNetworkStream:
        await here.wait()
        return Answers(here)

    monkeypatch.setattr(backend._inner, "connect_tcp", connected)

    async def ask(number: int) -> None:
        stream = await backend.connect_tcp("127.0.0.1", 1)
        steps.append(number)
        await stream.write(b"GET / HTTP/1.1\r\n\r\n")
        await stream.read(1_000)
        steps.append(number)
        stream._seen = None  # type: ignore[attr-defined]  # its head has come
        await stream.read(1_000)
        steps.append(number)

    asking = [asyncio.create_task(ask(number)) for number in range(many)]
    await asyncio.sleep(0)
    here.set()
    most = await most_in_a_turn(3 * many, steps)
    assert most <= WOKEN // informational.PIECE
    await asyncio.gather(*asking)


async def test_a_connection_that_is_given_up_as_it_waits_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    here = asyncio.Event()
    here.set()
    made: list[Answers] = []
    backend = informational.Backend()

    async def connected(*_: object) -> httpcore.AsyncNetworkStream:
        made.append(Answers(here))
        return made[-1]

    monkeypatch.setattr(backend._inner, "connect_tcp", connected)
    asking = [asyncio.create_task(backend.connect_tcp("127.0.0.1", 1)) for _ in range(WOKEN)]
    await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    done = await asyncio.gather(*asking, return_exceptions=True)
    lost = [made[n] for n, each in enumerate(done) if isinstance(each, asyncio.CancelledError)]
    assert lost and all(each.closed for each in lost)
