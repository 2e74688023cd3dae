"""The published clients through two Machines: each fault is done once to all of them, in the middle of their answers.

A client gets exactly the upstream's text, or it is told that the rest is lost; the upstream is called once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.databases import Postgres
from tests.machines import Machine
from tests.manual import manual
from tests.relay.agents import PATIENCE, AgentServer, Case
from tests.relay.clients import Clients
from tests.relay.dialects import DIALECTS, Turn
from tests.relay.outcomes import BACK, STOPS, table
from tests.relay.stage import PATHS, RELAY, Answer, Outcome, Stage

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(postgres: Postgres, agent: AgentServer, clients: Mapping[str, Clients]) -> AsyncIterator[Stage]:
    env = {
        "GATEWAY_UPSTREAM": agent.url,
        "GATEWAY_RELAY": RELAY,
        "GATEWAY_RELAY_LEASE": "2",
        "GATEWAY_RELAY_REJOIN": "2",
    }
    async with (
        postgres.database() as url,
        Machine.start(url, env=env) as a,
        Machine.start(url, env=env) as b,
        httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http,
        AsyncExitStack() as proxies,
    ):
        yield Stage(agent, clients, a, b, http, proxies)


async def whole(stage: Stage) -> None:
    await stage.ask("one ", "two ")
    await stage.finish("three")


async def long(stage: Stage) -> None:
    """2 MB in 500 frames, as fast as they are taken."""
    await stage.ask("one ")
    await stage.finish(*[f"{number:03} {'x' * 4092}" for number in range(500)])


async def wide(stage: Stage) -> None:
    """One frame of 300 kB."""
    await stage.ask("one ")
    await stage.finish("x" * 300_000, " two")


async def cut(stage: Stage) -> None:
    await stage.ask("one ", "two ")
    stage.proxy.cut()
    await stage.come_back()
    await stage.say("three ")
    await stage.finish("four")


async def reload(stage: Stage) -> None:
    await stage.ask("one ", "two ")
    await stage.come_back("reload")
    await stage.say("three ")
    await stage.finish("four")


async def another_machine_killed(stage: Stage) -> None:
    """It is not the one that records: a client came to it after a cut."""
    await stage.ask("one ", "two ")
    stage.proxy.target = stage.b.url
    stage.proxy.cut()
    await stage.come_back()
    await stage.say("three ")
    stage.proxy.target = stage.a.url
    await stage.b.kill()
    await stage.come_back()
    await stage.finish("four")
    await stage.b.restart()


async def drained(stage: Stage) -> None:
    """The Machine that records gets SIGTERM: it ends when its recordings do. Those clients that go on by themselves are
    sent away at once; the others stay, and notice nothing.
    """
    await stage.ask("one ", "two ")
    stage.proxy.target = stage.b.url
    ending = asyncio.ensure_future(stage.a.terminate())
    await stage.say("three ")
    assert not ending.done()
    await stage.finish("four")
    assert await ending == 0
    await stage.a.restart()


async def recording_machine_killed(stage: Stage) -> None:
    await stage.ask("one ", "two ")
    stage.proxy.target = stage.b.url
    await stage.a.kill()
    await stage.come_back()
    await stage.each(lambda answer: answer.told.ended())
    await stage.a.restart()


async def upstream_killed(stage: Stage) -> None:
    await stage.ask("one ", "two ")
    await stage.note_calls()
    await stage.agent.kill()
    await stage.each(lambda answer: answer.told.ended())
    await stage.agent.restart()


async def upstream_cut(stage: Stage) -> None:
    await stage.ask("one ", "two ")
    await stage.each(lambda answer: answer.case.cut())
    await stage.each(lambda answer: answer.told.ended())


EXACT = (whole, long, wide, cut, reload, another_machine_killed, drained)
LOST = (recording_machine_killed, upstream_killed, upstream_cut)

Fault = Callable[[Stage], Awaitable[None]]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def outcomes(stage: Stage, request: pytest.FixtureRequest) -> dict[str, Outcome]:
    """What has become of each client's answer under this fault."""
    await request.param(stage)
    return await stage.outcomes()


def named(fault: Fault) -> str:
    return fault.__name__


@pytest.mark.parametrize("client", BACK)
@pytest.mark.parametrize("outcomes", EXACT, ids=named, indirect=True)
async def test_the_answer_is_exact(outcomes: Mapping[str, Outcome], client: str) -> None:
    outcome = of(outcomes, client)
    assert outcome.text == outcome.said
    assert outcome.end == "finished"
    assert outcome.calls == 1


@pytest.mark.parametrize("client", BACK)
@pytest.mark.parametrize("outcomes", LOST, ids=named, indirect=True)
async def test_the_client_is_told_that_the_rest_is_lost(outcomes: Mapping[str, Outcome], client: str) -> None:
    outcome = of(outcomes, client)
    assert outcome.text == outcome.said
    assert outcome.end.startswith("error: ")
    assert "gone" in outcome.end
    assert outcome.calls == 1


async def test_the_manual_says_what_each_client_can() -> None:
    assert manual("relay").partition("<!-- clients -->\n")[2].partition("\n<!-- /clients -->")[0] == table()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stopped(stage: Stage) -> dict[str, Outcome]:
    """The same after a stop at the Machine that does not record."""
    await stage.ask("one ", "two ", clients=STOPS)

    async def stop(answer: Answer) -> None:
        path = STOPS[answer.client][0].format(key=answer.told.key)
        (await stage.http.post(f"{stage.b.url}{path}")).raise_for_status()
        await answer.case.until(**{"done" if answer.client.startswith("langgraph") else "left": 1})
        await answer.told.ended()

    await stage.each(stop)
    return await stage.outcomes()


@pytest.mark.parametrize("client", STOPS)
async def test_a_stop_elsewhere_reaches_the_upstream(stopped: Mapping[str, Outcome], client: str) -> None:
    outcome = of(stopped, client)
    assert outcome.text == outcome.said
    assert outcome.end == STOPS[client][1]
    assert outcome.calls == 1


OLDER = ("ai-sdk-5", "ai-sdk-6")


async def older_whole(stage: Stage) -> None:
    await stage.ask("one ", "two ", clients=OLDER)
    await stage.finish("three")


async def older_reload(stage: Stage) -> None:
    """At the other Machine."""
    await stage.ask("one ", "two ", clients=OLDER)
    stage.proxy.target = stage.b.url
    stage.proxy.cut()
    await stage.come_back("reload")
    await stage.say("three ")
    await stage.finish("four")


@pytest.mark.parametrize("client", OLDER)
@pytest.mark.parametrize("outcomes", [older_whole, older_reload], ids=named, indirect=True)
async def test_transports_of_older_ai_sdks_get_all(outcomes: Mapping[str, Outcome], client: str) -> None:
    outcome = of(outcomes, client)
    assert outcome.text == outcome.said
    assert outcome.end == "finished"
    assert outcome.calls == 1


@pytest.mark.parametrize("preset", ["tanstack", "tanstack-http", "openai-chat", "ag-ui", "sse", "ndjson"])
async def test_of_two_posts_with_one_key_the_upstream_has_one(stage: Stage, preset: str) -> None:
    case = await stage.agent.case().say("one ", "two ")
    both = [asyncio.ensure_future(post(stage, machine, preset, case)) for machine in (stage.a, stage.b)]
    await case.until(calls=1)
    await case.finish("three")
    one, other = [plain(body) for body in await asyncio.gather(*both)]
    assert one == other == upstream_bytes(preset, case, "one ", "two ", "three")
    assert await case.calls() == 1


@pytest.mark.parametrize("preset", PATHS)
async def test_a_slow_client_holds_nobody_back_and_gets_all(stage: Stage, preset: str) -> None:
    texts = [f"{number:03} {'x' * 10_000}" for number in range(200)]
    case = await stage.agent.case().finish(*texts)
    async with stage.http.stream(
        DIALECTS[preset].method, f"{stage.a.url}{route(preset)}", **question(case)
    ) as response:
        await case.until(done=1)
        body = b"".join([piece async for piece in response.aiter_raw()])
    assert plain(body) == upstream_bytes(preset, case, *texts)


async def post(stage: Stage, machine: Machine, preset: str, case: Case) -> bytes:
    return (
        await stage.http.request(DIALECTS[preset].method, f"{machine.url}{route(preset)}", **question(case))
    ).content


def question(case: Case) -> dict[str, Any]:
    """What is asked in all dialects at once."""
    key = f"key-{case.name}"
    body = {"prompt": case.name, "id": key, "runId": key, "stream": True, "background": True}
    return {"json": body, "headers": {"x-run-id": key, "idempotency-key": key}, "params": {"run": key}}


def route(preset: str) -> str:
    return DIALECTS[preset].route.format(thread="thread")


def plain(body: bytes) -> bytes:
    """Without the ids of the gateway."""
    return re.sub(rb'^(?:id: [^\n]+\n|\{"id":"run_[^"]+","chunk":(.*)\}$)', rb"\1", body, flags=re.MULTILINE)


def upstream_bytes(preset: str, case: Case, *texts: str) -> bytes:
    """What the agent server has written."""
    dialect, turn = DIALECTS[preset], Turn(f"key-{case.name}", "thread")
    frames = [*dialect.opening(turn), *(dialect.text(turn, text) for text in texts), *dialect.closing(turn)]
    return b"".join(frames)


def of(outcomes: Mapping[str, Outcome], client: str) -> Outcome:
    outcome = outcomes[client]
    if outcome.problem is not None:
        pytest.fail(f"{type(outcome.problem).__name__}: {outcome.problem}", pytrace=False)
    return outcome
