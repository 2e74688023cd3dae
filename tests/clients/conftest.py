"""What the client tests share: Machines over one database, and a run with the exact log of its events."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.tools.proxy import Proxy

if TYPE_CHECKING:
    from tests.machines import Machine

JSON = {"content-type": "application/json"}


@dataclass
class Run:
    """A run and what has been acknowledged of it: `log` is exactly what a reader must be given."""

    path: str
    http: httpx.AsyncClient  # its base address is the Machine that is written to
    log: list[Any] = field(default_factory=list)
    end: str = ""  # the offset after the last event

    async def create(self) -> None:
        self._written(await self.http.put(self.path, headers=JSON), [])

    async def append(self, *events: Any) -> None:
        self._written(await self.http.post(self.path, json=list(events), headers=JSON), events)

    async def close(self, *events: Any) -> None:
        """Closes the run; events given are its last ones, appended in the same request."""
        headers = {"stream-closed": "true"}
        if events:
            answer = await self.http.post(self.path, json=list(events), headers=headers | JSON)
        else:
            answer = await self.http.post(self.path, headers=headers)
        self._written(answer, events)

    async def count(self, numbers: range) -> None:
        """Appends {"n": …} for each number, one request each."""
        for number in numbers:
            await self.append({"n": number})

    def _written(self, answer: httpx.Response, events: Any) -> None:
        answer.raise_for_status()
        self.log += events
        self.end = answer.headers["stream-next-offset"]


@dataclass
class Two:
    """Machine A, which readers reach through the proxy and which gets killed; B, which is written to."""

    a: Machine
    b: Machine
    proxy: Proxy
    run: Run

    @property
    def url(self) -> str:
        """The run's address as the client has it: it stays the same when A is gone."""
        return self.proxy.url + self.run.path

    async def lose_a(self) -> None:
        """A is killed with SIGKILL; whoever comes to the same address from now on reaches B."""
        self.proxy.target = self.b.url
        await self.a.kill()

    async def deploy(self) -> None:
        """Both are replaced, one right after the other; the address reaches whichever does not drain."""
        for old, other in ((self.a, self.b), (self.b, self.a)):
            self.proxy.target = other.url
            port = old.port
            assert await old.terminate() == 0
            await old.restart()
            assert old.port == port


StartTwo = Callable[..., Awaitable[Two]]


@pytest.fixture
async def start_two(database_url: str) -> AsyncIterator[StartTwo]:
    """`await start_two(GATEWAY_…=…)`: two Machines with these settings over one database, and a run."""
    from tests.machines import Machine

    async with AsyncExitStack() as stack:

        async def start(**env: str) -> Two:
            a = await stack.enter_async_context(Machine.start(database_url, env=env))
            b = await stack.enter_async_context(Machine.start(database_url, env=env))
            proxy = await stack.enter_async_context(Proxy(a.url))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=b.url, trust_env=False))
            run = Run(f"/runs/{uuid.uuid4()}", http)
            await run.create()
            return Two(a, b, proxy, run)

        yield start


@pytest.fixture
async def two(start_two: StartTwo) -> Two:
    """Two Machines with their usual settings."""
    return await start_two()
