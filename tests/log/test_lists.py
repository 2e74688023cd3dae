"""What the database is told before it looks for a list."""

from __future__ import annotations

from gateway.log.database import Database
from gateway.log.lists import Lists

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
