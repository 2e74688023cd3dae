"""A Machine that records is killed, and exactly one other goes on with its answers: nothing is lost or comes twice."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.log.database import Database
from gateway.relay.store import New, Store
from tests.databases import Postgres
from tests.machines import Machine
from tests.relay.agent import Agent, Call
from tests.relay.client import Response, answer, asking
from tests.relay.test_the_rest import ASKED, IDS, RELAY_FILE, plain

RELAY = "langgraph:/,openai-background:/v1/responses"
BACK = {
    "any": "/any/7/{key}",
    "counted": "/counted/{key}",
    "langgraph": "/threads/t/runs/r/stream",
    "openai": "/v1/responses/resp?stream=true",
}


@dataclass
class Begun:
    """An answer of which three frames have come, and who asks for it."""

    name: str
    response: Response
    call: Call

    @property
    def key(self) -> str:
        return f"key-{self.name}"


class Scene:
    """Two Machines in front of one agent server."""

    def __init__(self, agent: Agent, one: Machine, other: Machine, stack: AsyncExitStack) -> None:
        self.agent = agent
        self.one = one
        self.other = other
        self._stack = stack

    async def begin(self, name: str) -> Begun:
        target, headers, frames, *_ = ASKED[name]
        body = {"stream": True, "background": True}
        response = await self._stack.enter_async_context(
            asking(self.one.url, "POST", target, {"x-run-id": f"key-{name}", "authorization": "Bearer a"}, body)
        )
        call = await self.agent.call()
        await call.begin(headers={"content-type": "text/event-stream", **headers})
        await call.say(*frames[:3])
        await response.until(plain(frames[2]))
        return Begun(name, response, call)

    async def back(self, begun: Begun) -> Response:
        """Its client comes to the other Machine."""
        target = BACK[begun.name].format(key=begun.key)
        return await self._stack.enter_async_context(
            asking(self.other.url, "GET", target, {"accept": "text/event-stream"})
        )


@asynccontextmanager
async def scene_of(database_url: str, file: str, **settings: str) -> AsyncIterator[Scene]:
    async with Agent.start() as agent, AsyncExitStack() as stack:
        env = {
            "GATEWAY_UPSTREAM": agent.url,
            "GATEWAY_RELAY": RELAY,
            "GATEWAY_RELAY_FILE": file,
            "GATEWAY_RELAY_LEASE": "2",
            **settings,
        }
        one, other = [await stack.enter_async_context(Machine.start(database_url, env=env)) for _ in range(2)]
        yield Scene(agent, one, other, stack)


@pytest.fixture
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("relay") / "relay.toml"
    file.write_text(RELAY_FILE)
    return str(file)


async def test_a_killed_machines_answers_go_on_at_another(database_url: str, file: str) -> None:
    """Of each dialect one, at once. The upstream's runs are called once; their clients get all at the other Machine."""
    async with scene_of(database_url, file) as scene:
        answers = [await scene.begin(name) for name in ASKED]
        backs = [await scene.back(begun) for begun in answers]
        await scene.one.kill()
        questions = {call.target: call for call in [await scene.agent.call() for _ in answers]}
        for begun in answers:
            _, _, _, again, asked = ASKED[begun.name]
            call = questions[asked.format(key=begun.key)]
            assert call.headers.get("authorization") == ("Bearer a" if begun.name == "any" else None)
            await call.begin()
            await call.say(*again[2:])
            await call.end()
        for begun, back in zip(answers, backs, strict=True):
            got = plain(await back.ended()).replace(b'"pad":"-', b'"pad":"')
            assert got == plain(b"".join(ASKED[begun.name][2]))
            assert back.whole
            assert not begun.response.whole
        assert [call.method for call in scene.agent.calls] == ["POST"] * len(ASKED) + ["GET"] * len(ASKED)


async def test_a_client_goes_on_by_its_last_id(database_url: str, file: str) -> None:
    async with scene_of(database_url, file) as scene:
        begun = await scene.begin("any")
        await scene.one.kill()
        await begun.response.ended()
        last = re.findall(rb"id: (\S+)", begun.response.body)[-1].decode()
        rest = await scene.agent.call()
        async with asking(scene.other.url, "GET", "/", {"last-event-id": last}) as back:
            await back.begun()
            await rest.begin()
            await rest.say(*IDS[2:])
            await rest.end()
            assert plain(begun.response.body + await back.ended()) == plain(b"".join(IDS))


async def test_an_upstream_that_does_not_know_it_loses_it(database_url: str, file: str) -> None:
    async with scene_of(database_url, file) as scene:
        begun = await scene.begin("any")
        back = await scene.back(begun)
        await scene.one.kill()
        await (await scene.agent.call()).answer(404, b"")
        assert plain(await back.ended()) == plain(b"".join(IDS[:3])) + b"data: lost\n\n"
        assert back.whole


async def test_a_machine_that_comes_back_too_late_records_nothing(database_url: str, file: str) -> None:
    async with scene_of(database_url, file) as scene:
        begun = await scene.begin("any")
        back = await scene.back(begun)
        scene.one.send_signal(signal.SIGSTOP)
        rest = await scene.agent.call()
        await rest.begin()
        await rest.say(*IDS[2:4])
        await back.until(b"data: 3")
        scene.one.send_signal(signal.SIGCONT)
        with contextlib.suppress(ConnectionError):
            await begun.call.say(*IDS[3:5])
        await begun.call.left()  # it learns that another Machine records now
        await rest.say(*IDS[4:])
        await rest.end()
        assert plain(await back.ended()) == plain(b"".join(IDS))


async def test_a_drain_leaves_what_it_cannot_wait_for_to_another(database_url: str, file: str) -> None:
    async with scene_of(database_url, file, GATEWAY_RELAY_DRAIN="0") as scene:
        begun = await scene.begin("any")
        back = await scene.back(begun)
        scene.one.send_signal(signal.SIGTERM)
        await begun.call.left()
        rest = await scene.agent.call()
        await rest.begin()
        await rest.say(*IDS[2:])
        await rest.end()
        assert plain(await back.ended()) == plain(b"".join(IDS))
        assert await scene.one.wait() == 0


async def test_a_run_that_is_to_stop_is_stopped_by_its_heir(database_url: str, file: str) -> None:
    async with scene_of(database_url, file) as scene:
        begun = await scene.begin("any")
        back = await scene.back(begun)
        await scene.one.kill()
        assert (await answer(scene.other.url, "POST", "/any/7/key-any/stop", body={})).status == 200
        told = await scene.agent.call()
        assert (told.method, told.target) == ("DELETE", "/any/7/a%20b")
        await told.answer(200, b"")
        assert plain(await back.ended()) == plain(b"".join(IDS[:3])) + b"data: stopped\n\n"


CHAIN = """
[[relay]]
name   = "chain"
start  = "POST /any"
key    = "header:x-run-id"
ids    = true
resume = "GET /any/{key}"
rejoin = { ask = "GET /any/{key}", by = "header:last-event-id", start = "-1" }
"""


async def test_another_gateway_goes_on_with_its_answers(postgres: Postgres, database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(CHAIN)
    async with Agent.start() as agent, postgres.database() as inner_url, AsyncExitStack() as stack:
        env = {"GATEWAY_UPSTREAM": agent.url, "GATEWAY_RELAY": "sse:/any"}
        inner = await stack.enter_async_context(Machine.start(inner_url, env=env))
        env = {"GATEWAY_UPSTREAM": inner.url, "GATEWAY_RELAY_FILE": str(file), "GATEWAY_RELAY_LEASE": "2"}
        one, other = [await stack.enter_async_context(Machine.start(database_url, env=env)) for _ in range(2)]
        async with asking(one.url, "POST", "/any", {"x-run-id": "r"}, {}) as response:
            call = await agent.call()
            await call.begin()
            await call.say(*IDS[:3])
            await response.until(plain(IDS[2]))
            async with asking(other.url, "GET", "/any/r") as back:
                await one.kill()
                await call.say(*IDS[3:])
                await call.end()
                assert plain(await back.ended()) == plain(b"".join(IDS))
                assert back.whole
        assert len(agent.calls) == 1


async def test_each_offered_recording_is_given_to_one(database_url: str) -> None:
    database = Database(database_url, pool_size=8, statement_timeout=30)
    await database.open()
    try:
        store = Store(database, machine="m")
        streams = []
        for n in range(6):
            new = New(f"runs/run_{n}", "row", "text/event-stream", 10, None, "data: lost\n\n")
            stream = await store.begin(new, [])
            await store.keep(stream, "{}", False)
            streams.append(stream)
        assert await store.take(["row"], 50) == []
        assert all([await store.hand_over(stream, 0) for stream in streams])
        assert not await store.hand_over(streams[0], 0)  # it has been
        taken = await asyncio.gather(*(store.take(rows, 2) for rows in (["row"], ["other"], ["row"], ["row"], ["row"])))
        got = [each.stream for some in taken for each in some]
        assert len(got) == len(set(got))
        while more := await store.take(["row"], 2):
            got += [each.stream for each in more]
        assert sorted(got) == sorted(streams)
        assert await store.taken(dict.fromkeys(streams, 0)) == streams
        assert await store.taken(dict.fromkeys(streams, 1)) == []
        assert await store.lose("runs/run_0", "why", 0) is None  # whoever had it before
        assert not await store.hand_over(streams[0], 0)
        assert await store.lose("runs/run_0", "why", 1) is not None
    finally:
        await database.close()
