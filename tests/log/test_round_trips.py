"""What a database far away is asked: an append and a read are one round trip each, and a new connection takes few."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from asyncpg.protocol import protocol as driver

from gateway.log.connect import LogConnection
from gateway.protocol.append import Producer
from tests.log.rig import Log, opened
from tests.tools.database import Database
from tests.tools.proxy import Proxy

PATH = "runs/1"


@asynccontextmanager
async def far(url: str) -> AsyncIterator[tuple[Log, Proxy]]:
    """A log by way of a proxy that counts round trips."""
    database = Database(url, None)
    async with Proxy(database.socket) as proxy, opened(database.through(proxy.port), lanes=1, pool=2) as log:
        await log.create(PATH)
        yield log, proxy


async def turns(proxy: Proxy, work: Awaitable[object]) -> int:
    before = proxy.turns
    await work
    return proxy.turns - before


async def test_appends_and_reads_cost_one_round_trip_each(database_url: str) -> None:
    async with far(database_url) as (log, proxy):
        for seq in range(2):
            producer = Producer("me", 0, seq)
            questions: dict[str, Awaitable[object]] = {
                "append": log.append(PATH, b"1"),
                "append of many": log.append(PATH, *[b"2"] * 50),
                "append of a producer": log.append(PATH, b"3", producer=producer),
                "read": log.reader.read(PATH, 0),
                "read that is followed": log.reader.live(PATH, 0),
                "sweep": log.reader.positions([PATH, "runs/2"]),
                "stat": log.reader.stat(PATH),
            }
            counts = {name: await turns(proxy, question) for name, question in questions.items()}
        assert counts == dict.fromkeys(counts, 1)  # the second time: by then each statement has been prepared


async def test_a_new_connection_does_not_ask_what_the_types_are(database_url: str) -> None:
    async with far(database_url) as (log, proxy):
        await log.reader.read(PATH, 0)
        # One connection is there, the other is opened now: whether TLS, as whom; which log it is (a statement's text
        # and itself); then the statement's text and itself.
        both = asyncio.gather(log.reader.read(PATH, 0), log.reader.read(PATH, 0))
        assert await turns(proxy, both) <= 1 + 6
        assert proxy.accepted == 3  # with the one that looked for a pooler


async def test_the_driver_still_asks_by_the_name_that_is_overridden() -> None:
    assert "_introspect_types" in vars(LogConnection.__mro__[1])


def test_what_is_in_an_array_is_not_asked_whether_it_is_one() -> None:
    for name in ("IterableABC", "SizedABC"):
        assert getattr(driver, name) == (list, tuple), "the driver calls it otherwise now: see gateway.log.connect"
