"""A subscription of more links than one call walks: work is noted by whoever hears of it, or goes through all links."""

from __future__ import annotations

import pytest

import gateway.subscriptions.store as subject
from gateway.subscriptions.errors import Code
from gateway.subscriptions.rules import Ack
from gateway.subscriptions.store import Store
from tests.subscriptions.store_tools import HOOK, claim_deliveries, pending, refused, settlement
from tests.subscriptions.tools import Streams, pull_wake

MANY = 1_500
LAST = f"runs/{MANY}"  # none is behind it
FILL = f"""
    INSERT INTO run_gateway.streams (path, content_type, media_type)
    SELECT 'runs/' || to_char(n, 'FM0000'), 'application/json', 'application/json' FROM generate_series(1, {MANY}) n
"""
NOTED = "SELECT count(*) FROM run_gateway.subscription_work"


async def test_work_that_somebody_has_heard_of_is_found_at_once(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake())
    await streams.value(FILL)
    await streams.append(LAST)
    [(_, path)] = await store.to_wake([LAST], 10)
    assert path == LAST
    claim = await store.claim("s", "w")
    assert pending(claim) == {LAST: 1}
    assert len(claim.links) == 1_000
    assert not await store.settle("s", "pull-wake", 1, settlement(claim, Ack(LAST, 1), done=True))
    assert await streams.value(NOTED) == 0
    await refused(Code.NO_PENDING_WORK, store.claim("s", "w"))


async def test_what_comes_meanwhile_is_the_next_wake(store: Store, streams: Streams) -> None:
    await streams.value(FILL)
    await store.create("s", HOOK)
    await streams.append(LAST)
    await store.wake(dict(await store.to_wake([LAST], 10)))
    [delivery] = await claim_deliveries(store, 15, 10)
    await streams.append(LAST)
    await streams.append("runs/1400")
    assert await store.to_wake([LAST, "runs/1400"], 10) == [], "it is busy"
    assert await store.finished(delivery)
    [following] = await claim_deliveries(store, 15, 10)
    assert [(link.path, link.tail) for link in following.links if link.pending] == [("runs/1400", 1), (LAST, 2)]


async def test_work_that_nobody_has_heard_of_is_found_in_steps(
    store: Store, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_SEEK_LINKS", 400)
    monkeypatch.setattr(subject, "_SEEKING", 0)
    await store.create("s", HOOK)
    await streams.value(FILL)
    await streams.append(LAST)
    found = [await store.neglected(10) for _ in range(5)]
    assert [len(each) for each in found] == [0, 0, 0, 1, 1]
    assert found[-1][0][1] == LAST
    assert (await store.wake(dict(found[-1]))).woken == 1


async def test_what_is_no_work_any_more_is_tidied_away(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await store.create("other", HOOK)
    await streams.create("runs/1", b"1")
    await streams.create("runs/2", b"1")
    await store.to_wake(["runs/1", "runs/2"], 10)
    assert await streams.value(NOTED) == 4
    await streams.delete("runs/1")
    await store.delete("other")
    while await store.tidy(100):
        pass
    assert await streams.value(NOTED) == 1
    [(_, path)] = await store.neglected(10)
    assert path == "runs/2"
