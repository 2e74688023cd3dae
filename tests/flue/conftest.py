"""One database with Flue's tables and one gateway in front of it, for all tests that need no others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.databases import Postgres
from tests.flue.app import App
from tests.servers import PROTOCOLS, Running, serving


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def flue_database(postgres: Postgres) -> AsyncIterator[str]:
    """A migrated database with Flue's tables in it."""
    async with postgres.database() as url:
        async with App.start(url, tables=True):
            pass
        yield url


@pytest_asyncio.fixture
async def app(flue_database: str) -> AsyncIterator[App]:
    """A Flue server."""
    async with App.start(flue_database) as app:
        yield app


@pytest.fixture(scope="package")
def gateway(flue_database: str) -> Iterator[Running]:
    with serving(
        flue_database,
        "direct",
        flue=True,
        flue_workflows="ticker, chat",
        flue_poll_interval=0.05,
        long_poll_timeout=0.5,
    ) as running:
        yield running


@pytest.fixture(params=list(PROTOCOLS))
def protocol(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def run() -> str:
    """The id of a run that nobody else has."""
    return f"run_{uuid4().hex}"
