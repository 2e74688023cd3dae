"""Two pools behind one address: recorders, which are deployed rarely, and Machines that answer clients."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from tests.machines import Machine
from tests.relay.agent import Agent
from tests.relay.client import answer, asking

CHAT = {"id": "c1"}
STREAM = "/api/chat/c1/stream"
ONE, TWO, THREE = (b'data: {"n":%d}\n\n' % n for n in range(3))


@dataclass
class Pools:
    """One recorder, and two Machines before it."""

    agent: Agent
    recorder: Machine
    one: Machine
    other: Machine


@asynccontextmanager
async def pools_of(database_url: str) -> AsyncIterator[Pools]:
    async with Agent.start() as agent:
        env = {"GATEWAY_UPSTREAM": agent.url, "GATEWAY_RELAY": "ai-sdk:/api/chat,sse:/any"}
        async with Machine.start(database_url, env=env) as recorder:
            env |= {"GATEWAY_RELAY_RECORDERS": recorder.url}
            async with Machine.start(database_url, env=env) as one, Machine.start(database_url, env=env) as other:
                yield Pools(agent, recorder, one, other)


async def test_a_deploy_of_those_who_answer_costs_no_recording(database_url: str) -> None:
    """One is killed and the other one drained, while the agent server goes on with its one answer."""
    async with pools_of(database_url) as pools:
        async with asking(pools.one.url, "POST", "/api/chat", {"cookie": "a=b"}, CHAT) as response:
            call = await pools.agent.call()
            assert (call.target, call.json, call.headers["cookie"]) == ("/api/chat", CHAT, "a=b")
            await call.begin()
            await call.say(ONE)
            await response.until(ONE)
            await pools.one.kill()
            assert await response.ended() == ONE
            assert not response.whole
        await call.say(TWO)
        async with asking(pools.other.url, "GET", STREAM) as back:
            await back.until(TWO)
            await pools.one.restart()
            pools.other.send_signal(signal.SIGTERM)
            async with asking(pools.one.url, "GET", STREAM) as again:
                await again.until(ONE + TWO)
                await call.say(THREE)
                await call.end()
                assert await again.ended() == ONE + TWO + THREE
                assert again.whole
        assert len(pools.agent.calls) == 1
        async with httpx.AsyncClient(base_url=pools.one.url) as client:
            (run,) = (await client.get("/runs")).json()["runs"]
            assert run["status"] == "completed"


async def test_a_stop_and_a_second_post_reach_the_recorder(database_url: str) -> None:
    async with pools_of(database_url) as pools:
        async with asking(pools.one.url, "POST", "/any", {"x-run-id": "r"}, {}) as response:
            call = await pools.agent.call()
            await call.begin()
            await call.say(ONE)
            await response.until(ONE)
            async with asking(pools.other.url, "POST", "/any", {"x-run-id": "r"}, {}) as second:
                await second.until(ONE)
                assert (await answer(pools.other.url, "POST", "/any/r/stop", body={})).status == 200
                await call.left()
                assert await second.ended() == await response.ended()
        assert len(pools.agent.calls) == 1


async def test_no_recorder_is_a_bad_gateway_and_no_run(database_url: str) -> None:
    async with pools_of(database_url) as pools:
        await pools.recorder.kill()
        assert (await answer(pools.one.url, "POST", "/api/chat", body=CHAT)).status == 502
        assert pools.agent.calls == []
