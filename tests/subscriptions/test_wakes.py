"""Wakes and their leases in the database: made once, claimed by one worker, fenced, settled."""

from __future__ import annotations

import asyncio

import pytest

from gateway.subscriptions.errors import Code
from gateway.subscriptions.rules import Ack, Settlement
from gateway.subscriptions.store import Store
from tests.subscriptions.store_tools import (
    HOOK,
    claim_deliveries,
    cursors,
    held,
    pending,
    refused,
    settlement,
    woken,
)
from tests.subscriptions.tools import Streams, pull_wake


async def test_of_many_machines_one_creates_the_wake(store: Store, streams: Streams, database_url: str) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    [(number, path)] = await store.to_wake(["runs/1", "runs/2"], 10)
    assert path == "runs/1"
    wake = {number: path}
    async with held(database_url, "SELECT FROM run_gateway.subscriptions FOR NO KEY UPDATE"):
        for attempt in await asyncio.gather(*(store.wake(wake, patient=each % 2 == 0) for each in range(4))):
            assert (attempt.woken, attempt.held) == (0, [number]), "it waits for nobody"
    attempts = await asyncio.gather(*(store.wake(wake, patient=each % 2 == 0) for each in range(4)))
    assert sum(attempt.woken for attempt in attempts) == 1
    [event] = await streams.read("wake")
    assert event.pop("ts") > 1_700_000_000_000
    assert event == {"type": "wake", "subscription_id": "s", "stream": "runs/1", "generation": 1}
    assert await store.to_wake(["runs/1"], 10) == []
    assert await store.neglected(10) == []


async def test_a_worker_that_comes_by_itself_gets_the_lease(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    assert not await woken(store)
    claim = await store.claim("s", "w")
    assert claim.generation == 1
    assert not await store.settle("s", "pull-wake", 1, settlement(claim, Ack("runs/1", 1), done=True))


async def test_a_claim_is_one_workers_until_it_is_done(store: Store, streams: Streams) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    await streams.create("runs/2", b"1")
    claim = await store.claim("s", "first")
    assert pending(claim) == {"runs/1": 1, "runs/2": 1}
    refusal = await refused(Code.ALREADY_CLAIMED, store.claim("s", "second"))
    assert refusal.more == {"code": "ALREADY_CLAIMED", "current_holder": "first", "generation": 1}
    assert not await store.settle("s", "pull-wake", 1, settlement(claim, Ack("runs/1", 1)))
    assert await store.settle("s", "pull-wake", 1, settlement(claim, done=True))  # runs/2 is left
    again = await store.claim("s", "second")
    assert (again.generation, pending(again)) == (2, {"runs/2": 1})
    assert [event["generation"] for event in await streams.read("wake")] == [1, 2]


async def test_what_does_not_fit_the_wake_is_fenced(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    claim = await store.claim("s", "w")
    acks = (Ack("runs/1", 1),)
    for token, generation, wake in [
        (2, 1, claim.wake_id),
        (1, 2, claim.wake_id),
        (1, None, claim.wake_id),
        (1, 1, "w_x"),
        (1, 1, None),
    ]:
        await refused(Code.FENCED, store.settle("s", None, token, Settlement(generation, wake, acks, True)))
    await refused(Code.TOKEN_INVALID, store.settle("s", None, None, settlement(claim, *acks)))
    await refused(Code.SUBSCRIPTION_NOT_FOUND, store.settle("none", None, None, settlement(claim, *acks)))
    await store.settle("s", None, 1, settlement(claim, *acks, done=True))
    await refused(Code.FENCED, store.settle("s", None, 1, settlement(claim, done=True)))


async def test_acks_are_applied_all_or_none(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1", b"2")
    await streams.create("runs/2", b"1")
    claim = await store.claim("s", "w")
    await store.settle("s", None, 1, settlement(claim, Ack("runs/1", 1)))
    for bad in (Ack("runs/2", 2), Ack("runs/2", None), Ack("other", 0), Ack("runs/1", 0)):
        await refused(Code.INVALID_OFFSET, store.settle("s", None, 1, settlement(claim, Ack("runs/1", 2), bad)))
        if bad.path != "runs/1":
            assert cursors(await store.get("s")) == {"runs/1": 1, "runs/2": -1}
    await store.settle("s", None, 1, settlement(claim, Ack("runs/1", 1), Ack("runs/2", 0)))
    assert cursors(await store.get("s")) == {"runs/1": 1, "runs/2": 0}


async def test_a_deleted_subscriptions_cursors_stay_where_they_are(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    claim = await store.claim("s", "w")
    await store.delete("s")
    await refused(Code.SUBSCRIPTION_NOT_FOUND, store.get("s"))
    await refused(Code.SUBSCRIPTION_NOT_FOUND, store.claim("s", "w"))
    await refused(Code.SUBSCRIPTION_NOT_FOUND, store.settle("s", None, 1, settlement(claim, Ack("runs/1", 1))))
    await store.create("s", pull_wake())
    await streams.append("runs/1")
    await store.claim("s", "w")
    await refused(Code.FENCED, store.settle("s", None, 1, settlement(claim, Ack("runs/1", 1))))
    assert cursors(await store.get("s")) == {"runs/1": 1}


async def test_an_expired_lease_fences_its_holder_and_wakes_again(store: Store, streams: Streams) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    late = await store.claim("s", "late")
    await streams.pass_lease("s")
    await refused(Code.FENCED, store.settle("s", None, 1, settlement(late, Ack("runs/1", 1), done=True)))
    assert await woken(store)
    assert (await store.claim("s", "next")).generation == 2
    await refused(Code.FENCED, store.settle("s", None, 1, settlement(late, Ack("runs/1", 1), done=True)))


async def test_a_claim_does_not_wait_for_the_finding_of_expired_leases(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    await store.claim("s", "late")
    await streams.pass_lease("s")
    claim = await store.claim("s", "next")
    assert claim.generation == 2
    assert await store.neglected(10) == []


async def test_an_ack_without_done_extends_the_lease(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake(lease_ttl_ms=600_000))
    await streams.create("runs/1", b"1")
    claim = await store.claim("s", "w")
    await streams.value("UPDATE run_gateway.subscriptions SET lease_until = clock_timestamp() + interval '1 minute'")
    await store.settle("s", None, 1, settlement(claim))
    left = "SELECT lease_until - clock_timestamp() > interval '9 minutes' FROM run_gateway.subscriptions"
    assert await streams.value(left)


async def test_a_wake_whose_work_is_gone_does_not_hold_back_the_next(store: Store, streams: Streams) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    assert await woken(store)
    await streams.delete("runs/1")
    await refused(Code.NO_PENDING_WORK, store.claim("s", "w"))
    await streams.create("runs/2", b"1")
    assert await woken(store)
    assert [event["stream"] for event in await streams.read("wake")] == ["runs/1", "runs/2"]


async def test_a_webhook_cannot_be_claimed_or_acked(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    await refused(Code.INVALID_REQUEST, store.claim("s", "w"))
    await refused(Code.INVALID_REQUEST, store.settle("s", "pull-wake", 1, Settlement(1, "w", (), True)))


async def test_a_wake_names_some_streams_and_the_next_wake_the_rest(
    store: Store, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.store.MOST_WORK", 2)
    await streams.create("runs/0", b"1")
    await store.create("s", HOOK)
    for number in range(1, 4):
        await streams.create(f"runs/{number}", b"1")
    assert await woken(store)
    [delivery] = await claim_deliveries(store, 15, 10)
    assert [link.path for link in delivery.links] == ["runs/1", "runs/2"]
    assert await store.finished(delivery)
    [rest] = await claim_deliveries(store, 15, 10)
    assert [link.path for link in rest.links] == ["runs/3", "runs/0"]  # work first
    assert not await store.finished(rest)
