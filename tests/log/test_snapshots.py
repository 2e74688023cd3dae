"""A snapshot that stays open keeps every version of a row: appends and reads look at a few, however many there are."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from gateway.log import reader
from tests.log.rig import connected, opened

if TYPE_CHECKING:
    import asyncpg

BEFORE = 600  # appends while the snapshot is open: some forty pages of one row's versions
JSON = "application/json"
OF = f"'{{r,s}}', '{{{JSON},{JSON}}}', '{{1,1}}', '{{false,false}}', NULL"
EVENTS = "'{1,2}', '{1,1}', '{1,1}', NULL"
PLAIN = f"CALL run_gateway.append(NULL, {OF}, NULL, NULL, NULL, {EVENTS}{', NULL' * 13})"
PRODUCED = f"SELECT * FROM run_gateway.append_batch({OF}, '{{p,p}}', '{{0,0}}', ARRAY[$1::bigint, $1], {EVENTS})"
WAYS = {
    "alone": "SELECT run_gateway.append_alone('s', 'application/json', '{1}', NULL)",
    "one": "SELECT run_gateway.append_one('s', 'application/json', false, NULL, NULL, NULL, NULL, '{1}', NULL)",
    "of a producer": "SELECT run_gateway.append_one('s', 'application/json', false, NULL, 'p', 0, $1, '{1}', NULL)",
    "from SQL": "SELECT run_gateway.append('s', '1')",
    "to several": PLAIN,
    "of producers to several": PRODUCED,
}
READS = {
    "page": (reader._PAGE, ("s", 0, None, 1 << 16, True, None, None, None, None)),
    "stat": (reader._STAT, ("s",)),
    "streams": (reader._STREAMS, (["r", "s"],)),
    "positions": (reader._POSITIONS, (["r", "s"],)),
}
TOUCH = "SELECT run_gateway.touch($1)", (["r", "s"],)
CROWDED = "run_gateway.crowded_until"
STILL = f"SELECT set_config('{CROWDED}', (current_setting('{CROWDED}')::numeric + 3600)::text, false)"
SEEN = """
    SELECT sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::bigint FROM pg_index i
     WHERE i.indrelid IN ('run_gateway.streams'::regclass, 'run_gateway.producers'::regclass)
"""


async def seen(database: asyncpg.Connection[asyncpg.Record], statement: str, *arguments: object) -> int:
    """How many versions of rows one call looks at."""
    async with database.transaction():
        before: int = await database.fetchval(SEEN)
        await database.execute(statement, *arguments)
        after: int = await database.fetchval(SEEN)
    return after - before


@pytest.mark.parametrize("ttl", [None, 3600], ids=["for ever", "with an end"])
@pytest.mark.parametrize("way", WAYS)
async def test_an_append_looks_at_few_versions_of_its_row(database_url: str, way: str, ttl: int | None) -> None:
    async with opened(database_url) as log, connected(database_url) as dump, connected(database_url) as database:
        for path in ("r", "s"):
            await log.create(path, ttl=ttl)
        numbers = itertools.count()

        def arguments() -> list[int]:
            return [next(numbers)] if "producer" in way else []

        await database.execute(WAYS[way], *arguments())  # planned while the table is all but empty
        async with dump.transaction(isolation="repeatable_read"):
            await dump.fetch("SELECT FROM run_gateway.streams")
            for _ in range(BEFORE):
                await database.execute(WAYS[way], *arguments())
            await database.execute(WAYS[way], *arguments())
            if way == "to several":
                await database.execute(STILL)  # which fails where it has not been noticed
            assert await seen(database, WAYS[way], *arguments()) <= 12
            for statement, more in (*READS.values(), *([TOUCH] if ttl else [])):
                assert await seen(database, statement, *more) <= 12, statement
        assert (await log.reader.stat("s")).tail == BEFORE + 3
