"""A database without subscriptions, and a receiver for webhooks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from gateway.log.database import Database
from gateway.subscriptions.store import Store
from tests.subscriptions.tools import Receiver, Streams


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with Database(database_url, pool_size=6, statement_timeout=30) as database:
        yield database


@pytest_asyncio.fixture
async def streams(database: Database) -> Streams:
    return Streams(database)


@pytest_asyncio.fixture
async def store(database: Database) -> Store:
    return Store(database)


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver
