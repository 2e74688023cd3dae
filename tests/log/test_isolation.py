"""A role or a database whose transactions are stricter than READ COMMITTED by default costs no request."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.databases import Postgres
from tests.log.rig import Log, opened

STREAMS = 10
ROUNDS = 12


async def _work(log: Log, others: Log) -> None:
    """Two Machines make, fill and read the same streams at the same time."""
    names = [f"s{i}" for i in range(STREAMS)]
    await asyncio.gather(*(one.create(name) for name in names for one in (log, others)))
    for turn in range(ROUNDS):
        await asyncio.gather(*(one.append(name, b"%d" % turn) for name in names for one in (log, others)))
    await asyncio.gather(*(log.append(name, b"1", b"2", close=True) for name in names))


@pytest.mark.parametrize("level", ["serializable", "repeatable read", "read committed"])
async def test_no_request_is_refused_for_the_level(database_url: str, level: str) -> None:
    name = urlsplit(database_url).path[1:]
    await Postgres(database_url).execute(f"ALTER DATABASE {name} SET default_transaction_isolation = '{level}'")
    async with opened(database_url) as log, opened(database_url, machine="m2") as others:
        await _work(log, others)
        expected = sorted(turn for turn in range(ROUNDS) for _ in (log, others))
        for stream in range(STREAMS):
            content = [int(event) for event in (await log.content(f"s{stream}")).split(b",")]
            assert content == [*expected, 1, 2]
