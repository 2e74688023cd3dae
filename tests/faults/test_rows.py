"""A transaction that was left idle holds the rows of streams: only those who write to them notice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.protocol import errors
from tests.log.rig import connected, opened

HELD = [f"held-{number}" for number in range(8)]  # more than there are lanes, or connections
OTHERS = [f"other-{number}" for number in range(8)]


@asynccontextmanager
async def holding(url: str, *paths: str) -> AsyncIterator[None]:
    """An open transaction in front of these streams' rows, which does nothing else."""
    async with connected(url) as idle, idle.transaction():
        await idle.execute("SELECT FROM run_gateway.streams WHERE path = ANY ($1) FOR UPDATE", paths)
        yield


async def test_appends_to_held_streams_are_refused_in_time_and_their_neighbours_go_on(database_url: str) -> None:
    async with asyncio.timeout(30), opened(database_url, timeout=1) as log:
        for path in (*HELD, *OTHERS):
            await log.create(path, ttl=3600)
        async with holding(database_url, *HELD):
            began = time.monotonic()
            stuck = [asyncio.create_task(log.append(path, b"%d" % n)) for n in range(3) for path in HELD]
            for n in range(10):
                await asyncio.gather(*(log.append(path, b"%d" % n) for path in (*OTHERS,)))
            assert not any(task.done() for task in stuck), "the others did not wait for them to give up"
            assert (await log.reader.read(HELD[0], 0)).batch.empty, "its TTL cannot slide, but it can be read"
            await log.reader.touch([*HELD, *OTHERS])
            outcomes = await asyncio.gather(*stuck, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {errors.StreamHeld}
            assert time.monotonic() - began < 10
            late = [asyncio.create_task(log.append(path, b"%d" % n)) for n in range(3) for path in HELD]
            await asyncio.gather(*(log.append(path, b"10") for path in OTHERS))  # by now the late ones are set aside
        await asyncio.gather(*late)
        for path in HELD:
            assert await log.content(path) == b"0,1,2", "in order, and nothing of what was refused"
        for path in OTHERS:
            assert await log.content(path) == b"0,1,2,3,4,5,6,7,8,9,10"
        assert log.doubts == []


async def test_a_stream_that_cannot_be_made_or_deleted_is_told_of_in_time(database_url: str) -> None:
    async with asyncio.timeout(30), opened(database_url) as log:
        await log.create("held")
        async with holding(database_url, "held"):
            outcomes = await asyncio.gather(log.create("held"), log.lifecycle.delete("held"), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [errors.StreamHeld, errors.StreamHeld]
        assert not (await log.create("held")).new
