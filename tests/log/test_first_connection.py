"""A Machine's first connection: a database that goes away just then is waited for."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from gateway.log.database import Database
from gateway.protocol.errors import Unavailable
from tests.tools.database import Database as Away
from tests.tools.proxy import Proxy


async def test_a_server_that_is_away_is_asked_until_it_answers(database_url: str) -> None:
    away = Away(database_url, None)
    async with Proxy(away.socket) as proxy:
        url = away.through(proxy.port)
        with proxy.refusing():
            with pytest.raises(Unavailable):
                await Database(url, pool_size=1, statement_timeout=5).open()
            database = Database(url, pool_size=1, statement_timeout=5, patience=300)
            opening, before = asyncio.create_task(database.open()), proxy.accepted
            async with asyncio.timeout(60):
                while proxy.accepted < before + 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(60):
            await opening
        async with database.acquire() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        await database.close()


async def test_what_waiting_does_not_mend_is_not_waited_for(database_url: str) -> None:
    nowhere = database_url.replace("/test_", "/no_such_test_")
    async with asyncio.timeout(60):
        with pytest.raises(Unavailable) as refused:
            await Database(nowhere, pool_size=1, statement_timeout=5, patience=300).open()
    assert isinstance(refused.value.__cause__, asyncpg.InvalidCatalogNameError)
