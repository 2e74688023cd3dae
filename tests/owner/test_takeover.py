"""Exactly one other Machine takes over from one that is killed or frozen, and who comes back writes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from tests.owner.scene import Scene, scene, until


async def frozen(those: Scene, name: str) -> None:
    """A owns a conversation and is stopped in the middle of a write; B takes over; A goes on."""
    a, b = those.houses
    assert (await a.say(name)).json()["pid"] == a.pid
    a.freeze()
    late = [asyncio.ensure_future(a.say(name, f"late {n}")) for n in range(3)]
    try:
        first = await b.say(name, "taken over")
        if first.status_code == 502:  # it was on its way to A: nobody knows what became of it, and it is not sent again
            assert first.json()["error"]["type"] == "owner_lost"
            first = await b.say(name, "taken over")
        assert (first.status_code, first.json()["pid"]) == (202, b.pid)
    finally:
        a.thaw()
    answers = await asyncio.gather(*late)
    assert {answer.json()["pid"] for answer in answers} == {b.pid}
    written = [(line["pid"], line["text"]) for line in those.writes(name) if line["what"] == "written"]
    at = next(n for n, (_, text) in enumerate(written) if "taken over" in text)
    assert {pid for pid, _ in written[:at]} == {a.pid}
    assert {pid for pid, _ in written[at:]} == {b.pid}
    assert await a.owner(name) == b.pid


async def test_a_frozen_owner_is_overtaken_and_writes_no_more(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        await those.house()
        await those.house()
        await frozen(those, "frozen")


async def test_a_killed_owner_is_followed_by_exactly_one(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        a, b, c = [await those.house() for _ in range(3)]
        await a.say("killed")
        stream = await reader(b.http, "/chat/killed/events")
        await a.gateway.kill()
        await a.app.kill()
        answers = await asyncio.gather(*(house.say("killed", f"{n}") for n in range(3) for house in (b, c)))
        assert {answer.status_code for answer in answers} == {202}
        (owner,) = {answer.json()["pid"] for answer in answers}
        assert owner in (b.pid, c.pid)
        assert await stream  # the reader's response was cut
        assert await b.owner("killed") == await c.owner("killed") == owner


async def test_an_application_that_restarts_owns_nothing(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        a, b = await those.house(), await those.house()
        await a.say("restarted")
        before = a.pid
        await a.app.kill()
        await a.app.launch()
        after = await b.say("restarted")
        assert after.json()["messages"] == 1
        assert after.json()["pid"] in (a.pid, b.pid)
        assert before not in (a.pid, b.pid)
        assert await a.owner("restarted") == await b.owner("restarted") == after.json()["pid"]


async def test_an_application_that_is_gone_is_followed(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        a, b = await those.house(), await those.house()
        await a.say("gone")
        await a.app.kill()
        taken = await asyncio.gather(a.say("gone"), b.say("gone"))
        assert {answer.json()["pid"] for answer in taken} == {b.pid}

        async def at_b() -> bool:
            return await a.owner("gone") == b.pid

        await until(at_b)


async def reader(http: httpx.AsyncClient, path: str) -> asyncio.Task[bool]:
    """Reads a stream until it is cut. Returns once it has begun."""
    begun = asyncio.Event()

    async def read() -> bool:
        try:
            async with http.stream("GET", path) as answer:
                async for _ in answer.aiter_raw():
                    begun.set()
        except httpx.RemoteProtocolError:
            return True
        return False

    task = asyncio.ensure_future(read())
    await asyncio.wait_for(begun.wait(), 30)
    return task
