"""How a recording ends, and its readers' responses: cleanly where it is whole, and by a cut wherever it is not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.databases import OwnPostgres
from tests.machines import Machine
from tests.relay.agent import Agent
from tests.relay.client import answer, asking
from tests.servers import PATIENCE, Running, serving

CHAT = {"id": "c1"}
STREAM = "/api/chat/c1/stream"
ONE, TWO = b'data: {"n":1}\n\n', b'data: {"n":2}\n\n'
LOST = b'data: {"type":"error","errorText":"The agent server is gone."}\n\n'
RELAY = "ai-sdk:/api/chat,sse:/any"
ROW = """
[[relay]]
name = "told"
start = "POST /told"
key = "header:x-run-id"
resume = "GET /told/{key}"
answer = { x-run = "{run}", x-key = "{key}" }
"""


@asynccontextmanager
async def machine(url: str, agent: Agent, **settings: str) -> AsyncIterator[Machine]:
    env = {"GATEWAY_UPSTREAM": agent.url, "GATEWAY_RELAY": RELAY, "GATEWAY_RELAY_LEASE": "2"}
    async with Machine.start(url, env=env | settings) as started:
        yield started


@asynccontextmanager
async def here(url: str, agent: Agent, **settings: float) -> AsyncIterator[Running]:
    """One in this process, which is there sooner."""
    more: dict[str, Any] = {"relay": RELAY, "relay_lease": 2, "relay_drain": 0.0, **settings}
    with serving(url, "direct", upstream=agent.url, **more) as running:
        yield running


async def test_a_killed_recording_machine_leaves_the_lost_frame(database_url: str) -> None:
    async with Agent.start() as agent, machine(database_url, agent) as one, machine(database_url, agent) as other:
        async with asking(one.url, "POST", "/api/chat", body=CHAT) as response:
            call = await agent.call()
            await call.begin()
            await call.say(ONE)
            await response.until(ONE)
            async with asking(other.url, "GET", STREAM) as back:
                await back.until(ONE)
                await one.kill()
                assert await response.ended() == ONE
                assert not response.whole
                assert await back.ended() == ONE + LOST
                assert back.whole
        assert (await answer(other.url, "GET", STREAM)).body == ONE + LOST
        async with httpx.AsyncClient(base_url=other.url) as client:
            (run,) = (await client.get("/runs")).json()["runs"]
            assert (run["status"], run["isError"]) == ("errored", True)


async def test_a_claim_whose_machine_is_killed_ends_by_its_lease(database_url: str) -> None:
    async with (
        Agent.start() as agent,
        machine(database_url, agent) as one,
        machine(database_url, agent) as other,
        asking(one.url, "POST", "/api/chat", body=CHAT),
    ):
        await agent.call()
        async with asking(other.url, "GET", STREAM) as back:
            await one.kill()
            assert await back.ended() == LOST
            assert back.headers["content-type"] == "text/event-stream"


async def test_a_key_that_was_lost_before_its_answer_is_free_again(database_url: str) -> None:
    """Whoever waits for that answer is told that it is lost; nobody asks the upstream again in their place."""
    key = {"x-run-id": "again"}
    async with (
        Agent.start() as agent,
        machine(database_url, agent) as one,
        machine(database_url, agent) as other,
        asking(one.url, "POST", "/any", key, {}),
    ):
        await agent.call()
        async with asking(other.url, "POST", "/any", key, {}) as waits:
            await one.kill()
            assert b"The agent server is gone." in await waits.ended()
            assert waits.whole
        assert len(agent.calls) == 1
        async with asking(other.url, "POST", "/any", key, {}) as anew:
            call = await agent.call()
            await call.begin()
            await call.say(ONE)
            await call.end()
            assert ONE in await anew.ended()
        assert ONE in (await answer(other.url, "POST", "/any", key, {})).body
        assert len(agent.calls) == 2


async def test_a_claim_that_ends_before_its_answer_says_whose_it_is(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text(ROW)
    async with (
        Agent.start() as agent,
        machine(database_url, agent, GATEWAY_RELAY_FILE=str(file)) as one,
        machine(database_url, agent, GATEWAY_RELAY_FILE=str(file)) as other,
        asking(one.url, "POST", "/told", {"x-run-id": "k"}, {}),
    ):
        await agent.call()
        async with asking(other.url, "GET", "/told/k") as back:
            await one.kill()
            assert await back.ended() == b""
            assert back.headers["x-run"].startswith("run_")
            assert "x-key" not in back.headers


async def test_a_drain_waits_for_recordings_and_moves_who_can_go_on(database_url: str) -> None:
    async with Agent.start() as agent, machine(database_url, agent) as one, machine(database_url, agent) as other:
        async with (
            asking(one.url, "POST", "/api/chat", body=CHAT) as stays,
            asking(one.url, "POST", "/any", {"x-run-id": "r"}, {}) as moves,
        ):
            calls = {call.target: call for call in (await agent.call(), await agent.call())}
            for call, response in ((calls["/api/chat"], stays), (calls["/any"], moves)):
                await call.begin()
                await call.say(ONE)
                await response.until(ONE)
            one.send_signal(signal.SIGTERM)
            await moves.ended()
            assert not moves.whole  # it comes back with its id
            id = moves.body.partition(b"\n")[0].removeprefix(b"id: ").decode()
            async with asking(other.url, "GET", "/any", {"last-event-id": id}) as back:
                for call in calls.values():
                    await call.say(TWO)
                    await call.end()
                assert (await back.ended()).endswith(TWO)
                assert await stays.ended() == ONE + TWO
                assert stays.whole and back.whole
        assert await one.wait() == 0
        assert len(agent.calls) == 2


async def test_what_a_drain_cannot_wait_for_is_lost(database_url: str) -> None:
    async with (
        Agent.start() as agent,
        machine(database_url, agent, GATEWAY_RELAY_DRAIN="1") as one,
        machine(database_url, agent) as other,
        asking(one.url, "POST", "/api/chat", body=CHAT) as response,
    ):
        call = await agent.call()
        await call.begin()
        await call.say(ONE)
        await response.until(ONE)
        async with asking(other.url, "GET", STREAM) as back:
            one.send_signal(signal.SIGTERM)
            assert await back.ended() == ONE + LOST
            assert back.whole
        assert await response.ended() in (ONE, ONE + LOST)
        await call.left()
        assert await one.wait() == 0


async def test_an_upstream_that_is_silent_for_too_long_is_lost(database_url: str) -> None:
    async with (
        Agent.start() as agent,
        here(database_url, agent, relay_silence=1.0) as one,
        asking(one.url, "POST", "/api/chat", body=CHAT) as response,
    ):
        call = await agent.call()
        await call.begin()
        await call.say(ONE)
        assert await response.ended() == ONE + LOST
        await call.left()


async def test_a_recording_that_lasts_too_long_is_lost(database_url: str) -> None:
    async with (
        Agent.start() as agent,
        here(database_url, agent, relay_max_duration=1.0) as one,
        asking(one.url, "POST", "/api/chat", body=CHAT) as response,
    ):
        call = await agent.call()
        await call.begin()
        await call.say(ONE)

        async def speak() -> None:
            while True:
                await call.say(b": alive\n\n")
                await asyncio.sleep(0.1)

        speaking = asyncio.ensure_future(speak())
        assert await response.ended() == ONE + LOST
        speaking.cancel()
        await asyncio.wait((speaking,))


async def test_a_silent_answer_keeps_its_lease_and_its_connections(database_url: str) -> None:
    async with (
        Agent.start() as agent,
        here(database_url, agent, heartbeat=0.5) as one,
        asking(one.url, "POST", "/api/chat", body=CHAT) as response,
    ):
        call = await agent.call()
        await call.begin()
        await call.say(ONE)
        await response.until(b": heartbeat\n\n" * 6)  # longer than the lease
        await call.say(TWO)
        await call.end()
        assert (await response.ended()).replace(b": heartbeat\n\n", b"") == ONE + TWO
        assert response.whole


async def test_a_database_that_goes_and_comes_back_loses_no_frame(
    own_postgres: Callable[[], Awaitable[OwnPostgres]],
) -> None:
    postgres = await own_postgres()
    frames = [b"data: %d\n\n" % n for n in range(40)]
    async with Agent.start() as agent, machine(postgres.url, agent, GATEWAY_RELAY_LEASE="60") as one:
        async with asking(one.url, "POST", "/api/chat", body=CHAT) as response:
            call = await agent.call()
            await call.begin()
            await call.say(*frames[:10])
            await response.until(frames[9])
            await postgres.stop()
            later = await answer(one.url, "GET", STREAM, {"accept": "text/event-stream"})
            assert (later.status, later.body, later.whole) == (200, b"", False)  # an EventSource comes back
            assert (await answer(one.url, "GET", STREAM)).status == 503
            for frame in frames[10:30]:
                await call.say(frame)
            await postgres.start()
            await call.say(*frames[30:])
            await call.end()
            body = await response.ended()
        assert body == b"".join(frames)[: len(body)]  # its reader may be cut
        async with asyncio.timeout(PATIENCE):
            back = await answer(one.url, "GET", STREAM)
            while back.status != 200 or not back.whole:  # the database is on its way back
                back = await answer(one.url, "GET", STREAM)
        assert back.body == b"".join(frames)
