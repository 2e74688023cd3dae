"""What the client tests share: Machines over one database, and a run with the exact log of its events."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest_asyncio

from tests.databases import Postgres
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


@contextlib.asynccontextmanager
async def _machines(database_url: str, **env: str) -> AsyncIterator[tuple[Machine, Machine]]:
    from tests.machines import Machine

    async with Machine.start(database_url, env=env) as a, Machine.start(database_url, env=env) as b:
        yield a, b


@contextlib.asynccontextmanager
async def _run_at(a: Machine, b: Machine) -> AsyncIterator[Two]:
    async with Proxy(a.url) as proxy, httpx.AsyncClient(base_url=b.url, trust_env=False) as http:
        run = Run(f"/runs/{uuid.uuid4()}", http)
        await run.create()
        yield Two(a, b, proxy, run)


@pytest_asyncio.fixture(loop_scope="session")
async def start_two(database_url: str) -> AsyncIterator[StartTwo]:
    """`await start_two(GATEWAY_…=…)`: two Machines with these settings over one database, and a run."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**env: str) -> Two:
            a, b = await stack.enter_async_context(_machines(database_url, **env))
            return await stack.enter_async_context(_run_at(a, b))

        yield start


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def machines(postgres: Postgres) -> AsyncIterator[tuple[Machine, Machine]]:
    """Two Machines with their usual settings, for one test after the other."""
    async with postgres.database() as database_url, _machines(database_url) as two:
        yield two


@pytest_asyncio.fixture(loop_scope="session")
async def two(machines: tuple[Machine, Machine]) -> AsyncIterator[Two]:
    """These Machines, both of which run, and a run of this test alone."""
    for machine in machines:
        if not machine.running:
            await machine.restart()
    async with _run_at(*machines) as two:
        yield two
