"""A snapshot that stays open keeps every version of a row: an append looks at a few of them, however many there are."""

from __future__ import annotations

import itertools

import pytest

from tests.log.rig import connected, opened

BEFORE = 600  # appends while the snapshot is open: some forty pages of one row's versions
WAYS = {
    "alone": "SELECT run_gateway.append_alone($1, 'application/json', '{1}', NULL)",
    "one": "SELECT run_gateway.append_one($1, 'application/json', false, NULL, NULL, NULL, NULL, '{1}', NULL)",
    "of a producer": "SELECT run_gateway.append_one($1, 'application/json', false, NULL, 'p', 0, $2, '{1}', NULL)",
    "from SQL": "SELECT run_gateway.append($1, '1')",
}
SEEN = """
    SELECT sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::bigint FROM pg_index i
     WHERE i.indrelid IN ('run_gateway.streams'::regclass, 'run_gateway.producers'::regclass)
"""


@pytest.mark.parametrize("way", WAYS)
async def test_an_append_looks_at_few_versions_of_its_row(database_url: str, way: str) -> None:
    async with opened(database_url) as log, connected(database_url) as dump, connected(database_url) as database:
        await log.create("s")
        numbers = itertools.count()

        async def append() -> None:
            await database.execute(WAYS[way], "s", *([next(numbers)] if way == "of a producer" else []))

        await append()  # planned while the table is all but empty
        async with dump.transaction(isolation="repeatable_read"):
            await dump.fetch("SELECT FROM run_gateway.streams")
            for _ in range(BEFORE):
                await append()
            async with database.transaction():
                before = await database.fetchval(SEEN)
                await append()
                seen = await database.fetchval(SEEN) - before
        assert seen <= 5
        assert (await log.reader.stat("s")).tail == BEFORE + 2
