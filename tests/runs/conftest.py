"""Two Machines over one database, for all tests of runs; each test has runs of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
import pytest_asyncio

from gateway.log.database import Database
from tests.databases import Postgres
from tests.servers import Client, Running, client_of, serving


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def database_of_all(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.database() as url:
        yield url


@pytest.fixture(scope="package")
def machines(database_of_all: str) -> Iterator[tuple[Running, Running]]:
    """The first knows what clients call it; the second goes by what it is asked for."""
    with ExitStack() as stack:
        yield (
            stack.enter_context(
                serving(database_of_all, "direct", long_poll_timeout=0.5, public_url="https://gateway.example")
            ),
            stack.enter_context(serving(database_of_all, "asgi", long_poll_timeout=0.5)),
        )


@pytest_asyncio.fixture
async def a(machines: tuple[Running, Running]) -> AsyncIterator[Client]:
    async with client_of(machines[0]) as client:
        yield client


@pytest_asyncio.fixture
async def b(machines: tuple[Running, Running]) -> AsyncIterator[Client]:
    async with client_of(machines[1]) as client:
        yield client


@pytest_asyncio.fixture
async def database(database_of_all: str) -> AsyncIterator[Database]:
    """The database that both are over, to look behind them."""
    async with Database(database_of_all, pool_size=4, statement_timeout=30) as database:
        yield database


@pytest.fixture
def id() -> str:
    """A run's id that nobody else uses."""
    return uuid4().hex
