"""A gateway that asks for credentials, under each protocol class, over one database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.auth.people import settings
from tests.databases import Postgres
from tests.servers import PROTOCOLS, Client, Running, client_of, serving


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def database_of_all(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.database() as url:
        yield url


@pytest.fixture(scope="package", params=list(PROTOCOLS))
def gateway(request: pytest.FixtureRequest, database_of_all: str) -> Iterator[Running]:
    with serving(database_of_all, request.param, long_poll_timeout=0.5, **settings()) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[Client]:
    async with client_of(gateway) as client:
        yield client
