"""Conversations of a real Flue 2.x app on several Machines, through their gateways, by the SDK that front ends use."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.flue2.house import House
from tests.flue2.rig import MOUNT, following, ticks, until_settled

pytestmark = pytest.mark.asyncio(loop_scope="package")
LIVE = ("sse", "long-poll")


@pytest.fixture
def id() -> str:
    """Of a conversation that nobody has begun yet."""
    return f"c-{uuid4().hex}"


async def test_a_conversation_is_followed_and_aborted_from_elsewhere(house: House, id: str) -> None:
    """Of a run that only the abort ends: whoever sees it go on does not see it late."""
    a, b, _ = house.machines
    await house.clients.send(id, a.url(id), ticks(10_000))
    for live in LIVE:
        await house.clients.observe(f"{id} {live}", b.url(id), live)
    for live in LIVE:
        outs = await house.clients.until(f"{id} {live}", "out", 5)
        assert [out["i"] for out in outs[:5]] == [1, 2, 3, 4, 5]
    assert await house.clients.abort(id, b.url(id))
    for live in LIVE:
        assert await house.clients.until(f"{id} {live}", "settled") == ["aborted"]
    assert await house.attempts(id) == [1]


async def test_messages_by_turns_are_answered_by_one_server(house: House, id: str) -> None:
    a, b, _ = house.machines
    await house.clients.send(id, a.url(id), ticks(1))
    await house.clients.observe(f"{id} read", b.url(id))
    for turn, pair in enumerate((b, a, b), 1):
        await house.clients.until(f"{id} read", "settled", turn)
        await house.clients.send(id, pair.url(id), ticks(1))
    assert await house.clients.until(f"{id} read", "settled", 4) == ["completed"] * 4
    assert len({out["pid"] for out in house.clients.said(f"{id} read", "out")}) == 1
    assert await house.attempts(id) == [1] * 4


async def test_a_message_meanwhile_breaks_no_tool(house: House, id: str) -> None:
    a, b, _ = house.machines
    await house.clients.send(id, a.url(id), ticks(8))
    await house.clients.observe(f"{id} read", a.url(id))
    await house.clients.until(f"{id} read", "out", 2)
    await house.clients.send(id, b.url(id), ticks(1))
    assert await house.clients.until(f"{id} read", "settled", 2) == ["completed"] * 2
    assert house.clients.said(f"{id} read", "error") == []


async def test_a_reader_from_before_is_not_left_behind(house: House, id: str) -> None:
    """Nobody owns the conversation when it comes, and then another Machine than the reader's does."""
    a, b, c = house.machines
    await house.clients.send(id, c.url(id), ticks(1))
    await house.clients.observe(f"{id} first", c.url(id))
    await house.clients.until(f"{id} first", "settled")
    await c.gateway.restart()
    await house.clients.observe(f"{id} read", b.url(id))
    await house.clients.until(f"{id} read", "settled")
    await house.clients.send(id, a.url(id), ticks(120))
    await house.clients.until(f"{id} read", "out", 3)
    assert (await house.submissions(id))[-1]["status"] == "running"
    assert await house.clients.abort(id, a.url(id))


async def test_a_conversation_follows_the_server_that_runs_it(house: House, id: str) -> None:
    """Flue has one queue: another server than the owner's may run a message, as this one, which no gateway saw."""
    a, b, _ = house.machines
    await house.clients.send(id, a.url(id), ticks(1))
    await house.clients.observe(f"{id} read", a.url(id))
    await house.clients.until(f"{id} read", "settled")
    await house.clients.send(f"{id} aside", f"{b.app.url}{MOUNT}/{id}", ticks(200))
    await house.clients.until(f"{id} read", "out", 4)
    assert (await house.submissions(id))[-1]["status"] == "running"
    assert await house.clients.abort(id, a.url(id))
    assert await house.clients.until(f"{id} read", "settled", 2) == ["completed", "aborted"]
    assert (await a.metric("flue_passed_on_total"), await house.attempts(id)) == (1, [1, 1])


async def test_an_idle_server_goes_on_with_what_a_dead_one_left(house: House, id: str) -> None:
    a, *others = house.machines
    for each in others:  # anew, so that they have had nothing to do: Flue's loop does not run there
        await each.app.terminate()
        await each.app.launch()
    await house.clients.send(id, a.url(id), ticks(40))
    await house.clients.observe(f"{id} read", others[0].url(id))
    async with following(others[-1].url(id)) as chunks:  # from rows: the one response goes on
        await house.clients.until(f"{id} read", "out", 3)
        await anext(chunks)
        await a.die()
        assert await house.clients.until(f"{id} read", "settled", timeout=120) == ["completed"]
        told = await until_settled(chunks)
    assert [chunk["output"]["i"] for chunk in told if chunk["type"] == "tool-output"] == list(range(1, 41))
    outs = house.clients.said(f"{id} read", "out")
    assert len({out["pid"] for out in outs}) == 2
    assert [out["i"] for out in outs] == list(range(1, 41))
    assert await house.attempts(id) == [2]
    assert sum([await each.metric("flue_wakes_total") for each in others]) >= 1
    await a.begin()


async def test_a_rolling_deploy_breaks_no_tool(house: House) -> None:
    ids = [f"c-{uuid4().hex}" for _ in house.machines]
    for at, id in enumerate(ids):  # one by one: Flue's servers may disturb each other while they take messages
        await house.clients.send(id, house.machines[at].url(id), ticks(5, 1.0))
        await house.settled(id, running=True)
    for each in house.machines:
        await each.deploy()
    for at, id in enumerate(ids):
        await house.clients.send(id, house.machines[at - 2].url(id), ticks(1))
        await house.settled(id)
        assert await house.attempts(id) == [1, 1]
        assert await house.tools(house.machines[at - 1].url(id)) == ["output-available"] * 6
