"""`follow` beside real Machines: every event once and in order, whatever is killed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from run_gateway import follow
from tests.clients.conftest import StartTwo, Two

pytestmark = pytest.mark.asyncio(loop_scope="session")  # as the Machines that these tests share


async def test_a_killed_machine_loses_and_repeats_nothing(two: Two) -> None:
    run = two.run
    await run.count(range(10))
    reader = follow(two.url)
    found: list[Any] = []
    async with asyncio.timeout(120):
        async for event in reader:
            found.append(event)
            if len(found) == 5:
                await two.lose_a()
                await run.count(range(10, 30))
                await run.close({"last": True})
    assert found == run.log
    assert (reader.offset, reader.closed) == (run.end, True)


async def test_connections_that_end_cleanly_are_begun_again(start_two: StartTwo) -> None:
    two = await start_two(GATEWAY_SSE_MAX_AGE="0.2")
    run = two.run

    async def write() -> None:
        for n in range(20):
            await run.append({"n": n})
            await asyncio.sleep(0.05)
        await run.close()

    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        found = [event async for event in follow(two.url)]
    assert found == run.log


async def test_a_loop_may_be_left_and_gone_on_with(two: Two) -> None:
    run = two.run
    await run.append(*range(10))
    await run.close()

    def read() -> tuple[list[Any], str, list[Any]]:
        reader = follow(two.url)
        begun: list[Any] = []
        for event in reader:
            begun.append(event)
            if event == 3:
                break
        return begun, reader.offset, list(follow(two.url, offset=reader.offset))

    begun, offset, rest = await asyncio.to_thread(read)
    assert (begun, offset, rest) == ([0, 1, 2, 3], "-1+4", [4, 5, 6, 7, 8, 9])


async def test_text_and_bytes_are_followed_too(two: Two) -> None:
    for name, type, pieces, found in (
        ("t", "text/plain", [b"Hel", "lö".encode()], ["Hel", "lö"]),
        ("b", "application/octet-stream", [b"\0\1", b"\xff"], [b"\0\1", b"\xff"]),
    ):
        url = f"{two.b.url}/v1/stream/{two.run.path[6:]}/{name}"
        await two.run.http.put(url, headers={"content-type": type})
        for piece in pieces:
            await two.run.http.post(url, headers={"content-type": type}, content=piece)
        await two.run.http.post(url, headers={"stream-closed": "true"})
        joined: Any = type_of(found)
        for event in await asyncio.to_thread(list, follow(url)):
            joined += event
        assert joined == type_of(found).join(found)


def type_of(pieces: list[Any]) -> Any:
    return "" if isinstance(pieces[0], str) else b""
