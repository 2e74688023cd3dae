"""Background tasks are ended together, and a failure of one of them is not lost."""

from __future__ import annotations

import asyncio

import pytest

from gateway.tasks import end


async def test_tasks_have_ended_when_end_returns() -> None:
    farewells = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            farewells.append(name)

    tasks = [asyncio.create_task(wait(name)) for name in "ab"]
    await asyncio.sleep(0)
    await end(tasks[0], None, tasks[1])
    assert farewells == ["a", "b"]
    await end(*tasks)
    await end(None)


async def test_what_a_task_had_failed_with_is_raised_when_the_others_have_ended() -> None:
    async def fail() -> None:
        raise ConnectionError("it went")

    failed, other = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError, match="it went"):
        await end(failed, other)
    assert other.cancelled()
