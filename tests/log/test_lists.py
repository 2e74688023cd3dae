"""What the database is told before it looks for a list, in how many round trips, and what becomes of a failure."""

from __future__ import annotations

import pytest

from gateway.log.database import Database
from gateway.log.lists import Lists
from gateway.protocol.errors import ListTooSlow, Unavailable
from tests.tools.database import Database as Place
from tests.tools.proxy import Proxy

TOLD = """
    SELECT current_setting('statement_timeout'), current_setting('plan_cache_mode'), current_setting('jit')
"""


async def test_a_list_has_its_own_time_and_plan_and_no_compiler(database_url: str) -> None:
    async with Database(database_url, pool_size=1, statement_timeout=60) as database:
        async with database.acquire() as connection:
            before = await connection.fetchrow(TOLD)
        for seconds, told in ((2, "2s"), (0.1, "100ms")):
            rows = await Lists(database, seconds=seconds).fetch("", TOLD)
            assert [tuple(row) for row in rows] == [(told, "force_custom_plan", "off")]
        async with database.acquire() as connection:
            assert await connection.fetchrow(TOLD) == before, "what comes next has its own"


async def test_a_list_takes_three_round_trips(database_url: str) -> None:
    place = Place(database_url, None)
    async with (
        Proxy(place.socket) as proxy,
        Database(place.through(proxy.port), pool_size=1, statement_timeout=60) as database,
    ):
        lists = Lists(database)
        await lists.fetch("", TOLD)  # which prepares it
        before = proxy.turns
        await lists.fetch("", TOLD)
        assert proxy.turns - before == 3


async def test_a_list_that_fails_leaves_no_transaction_open(database_url: str) -> None:
    async with Database(database_url, pool_size=1, statement_timeout=60) as database:
        with pytest.raises(ListTooSlow):
            await Lists(database, seconds=0.01).fetch("", "SELECT pg_sleep(60)")
        with pytest.raises(Unavailable):
            await Lists(database).fetch("", "SELECT 1 / 0")
        async with database.acquire() as connection:
            assert not connection.is_in_transaction()
            assert await connection.fetchval("SHOW statement_timeout") == "0"


async def test_a_list_of_a_strict_role_has_its_own_time(database_url: str) -> None:
    options = "options=-cdefault_transaction_isolation%3Dserializable"
    strict = f"{database_url}{'&' if '?' in database_url else '?'}{options}"
    async with Database(strict, pool_size=1, statement_timeout=60) as database:
        level = "SELECT current_setting('transaction_isolation'), current_setting('statement_timeout')"
        assert [tuple(row) for row in await Lists(database).fetch("", level)] == [("read committed", "2s")]
        async with database.acquire() as connection:
            assert await connection.fetchval("SHOW statement_timeout") == "0"
