"""One house for all tests with the real Flue 2.x app."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.databases import Postgres
from tests.flue2.house import House, furnished


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def house(postgres: Postgres) -> AsyncIterator[House]:
    """Started once; a test that ends a part of it starts it again."""
    async with furnished(postgres) as house:
        yield house
