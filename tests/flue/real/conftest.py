"""One house for all tests with the real Flue app."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.databases import Postgres
from tests.flue.real.house import House, furnished


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def everything(postgres: Postgres) -> AsyncIterator[House]:
    """Started once; a test that ends a part of it starts it again."""
    async with furnished(postgres) as house:
        yield house


@pytest_asyncio.fixture(loop_scope="package")
async def house(everything: House) -> House:
    """The same for one test, with the proxy leading to gateway B."""
    everything.proxy.target = everything.b.url
    return everything
