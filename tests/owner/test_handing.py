"""A Machine that ends gives away its conversations, each as soon as nothing is done for it; no tool is broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.owner.scene import House, Scene, scene, until
from tests.owner.test_takeover import reader


def tools(those: Scene, name: str) -> list[tuple[str, int]]:
    """What tools of a session have begun and ended, and where."""
    return [(line["what"], line["pid"]) for line in those.writes(name) if line["what"].startswith("tool")]


async def test_a_conversation_moves_when_its_open_requests_end(database_url: str, tmp_path: Path) -> None:
    """Without a question to the application, what is open for it is all that is known."""
    async with scene(database_url, tmp_path) as those:
        a, b = await those.house(), await those.house()
        await asyncio.gather(*(a.say(name) for name in ("idle", "read", "slow")))
        slow = asyncio.ensure_future(a.http.post("/chat/slow/files", content=slowly(open_ := asyncio.Event())))
        reading = await reader(b.http, "/chat/read/events")
        await until(lambda: begun(those, "slow", 2))
        ending = asyncio.ensure_future(a.gateway.terminate())
        assert await reading  # cut, as it has moved
        assert (await b.say("idle")).json()["pid"] == b.pid
        assert (await b.say("slow")).json()["pid"] == a.pid  # by A's gateway, which drains
        open_.set()
        assert (await slow).json()["pid"] == a.pid
        assert await ending == 0
        assert (await b.say("slow")).json() == {"pid": b.pid, "messages": 1}
        assert "3 were given away, and 0 were still busy" in a.gateway.log


async def begun(those: Scene, name: str, times: int) -> bool:
    return [line["what"] for line in those.writes(name)].count("begun") >= times


async def slowly(end: asyncio.Event) -> AsyncIterator[bytes]:
    yield b"a"
    await end.wait()
    yield b"b"


async def test_a_tool_that_runs_is_finished_where_it_began(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        env = {"GATEWAY_OWNED_BUSY": "busy"}
        a, b = await those.house(env), await those.house(env)
        await a.say("busy", seconds=3)
        await a.say("idle")
        ending = asyncio.ensure_future(a.gateway.terminate())
        await until(lambda: owned_by(b, "idle"))
        assert (await b.say("busy", "while it runs")).json()["pid"] == a.pid
        assert await ending == 0
        assert tools(those, "busy") == [("tool begun", a.pid), ("tool done", a.pid)]
        assert (await b.say("busy")).json()["pid"] == b.pid


async def test_what_is_busy_for_too_long_is_freed_at_the_end(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        env = {"GATEWAY_OWNED_BUSY": "busy", "GATEWAY_OWNED_DRAIN": "1"}
        a, b = await those.house(env), await those.house(env)
        await a.say("busy", seconds=60)
        assert await a.gateway.terminate() == 0
        assert "0 were given away, and 1 were still busy" in a.gateway.log
        assert (await b.say("busy")).json()["pid"] == b.pid


async def owned_by(house: House, name: str) -> bool:
    """Whether a write to a session, made here, reaches the house's own application."""
    return bool((await house.say(name)).json().get("pid") == house.pid)


async def test_workers_own_together_and_give_away_together(database_url: str, tmp_path: Path) -> None:
    """Each connection goes to any of three workers; a tool runs, and a body arrives at one of them, as they drain."""
    async with scene(database_url, tmp_path) as those:
        env = {"GATEWAY_OWNED_BUSY": "busy"}
        a, b = await those.house({**env, "GATEWAY_WORKERS": "3"}), await those.house(env)
        names = [f"w{n}" for n in range(12)]
        for house in (a, b, a):
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(fresh(house, name))
        assert {line["pid"] for line in those.writes()} == {a.pid}
        assert await a.metric("owner_lives") == 3
        assert await b.metric("owner_machines") == 1
        await fresh(a, "tool", seconds=3)
        open_ = asyncio.Event()
        slow = asyncio.ensure_future(a.http.post("/chat/slow/files", content=slowly(open_)))
        await until(lambda: begun(those, "slow", 1))
        ending = asyncio.ensure_future(a.gateway.terminate())
        await until(lambda: owned_by(b, names[0]))
        assert (await b.say("slow")).json()["pid"] == (await b.say("tool")).json()["pid"] == a.pid
        open_.set()
        assert (await slow).json()["pid"] == a.pid
        assert await ending == 0
        assert tools(those, "tool") == [("tool begun", a.pid), ("tool done", a.pid)]
        assert {(await b.say(name)).json()["pid"] for name in (*names, "tool", "slow")} == {b.pid}


async def fresh(house: House, name: str, **more: object) -> None:
    """A write on a connection of its own, which any worker may take."""
    async with httpx.AsyncClient(base_url=house.gateway.url) as http:
        assert (await http.post(f"/chat/{name}", json={"text": "hello", **more})).status_code == 202
