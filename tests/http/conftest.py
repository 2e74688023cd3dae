"""One gateway for each protocol class, for all tests that need no settings of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.databases import Postgres
from tests.servers import PROTOCOLS, Client, Running, client_of, serving


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def database_of_all(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.database() as url:
        yield url


@pytest.fixture(scope="package")
def gateways(database_of_all: str) -> Iterator[dict[str, Running]]:
    """Both at once over one database: two Machines."""
    with ExitStack() as stack:
        yield {
            protocol: stack.enter_context(
                serving(database_of_all, protocol, long_poll_timeout=0.5, max_body=100_000, page_bytes=10_000)
            )
            for protocol in PROTOCOLS
        }


@pytest.fixture(params=list(PROTOCOLS))
def protocol(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def gateway(gateways: dict[str, Running], protocol: str) -> Running:
    return gateways[protocol]


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[Client]:
    async with client_of(gateway) as client:
        yield client


@pytest.fixture
def path() -> str:
    """A stream's URL path that nobody else uses."""
    return f"/v1/stream/{uuid4().hex}"


@pytest.fixture
def run() -> str:
    return f"/runs/{uuid4().hex}"
