"""Attempts to deliver a wake by webhook, as the database keeps them: whose they are, and when the next is due."""

from __future__ import annotations

import pytest

from gateway.subscriptions.rules import Ack, Settlement
from gateway.subscriptions.store import Store
from tests.subscriptions.store_tools import HOOK, claim_deliveries, cursors, held, woken
from tests.subscriptions.tools import Streams, webhook


async def test_a_delivery_is_one_machines_until_its_time_is_up(
    store: Store, streams: Streams, database_url: str
) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    async with held(database_url, "SELECT FROM run_gateway.subscriptions FOR NO KEY UPDATE"):
        assert await claim_deliveries(store, 15, 10) == []  # somebody is at it: it is not waited for
    [first] = await claim_deliveries(store, 15, 10)
    assert (first.id, first.url, first.generation, first.failures) == ("s", HOOK.webhook_url, 1, 0)
    assert await claim_deliveries(store, 15, 10) == []
    await streams.pass_attempt("s")
    [second] = await claim_deliveries(store, 15, 10)
    assert (second.wake_id, second.generation) == (first.wake_id, 1)


async def test_a_lease_begins_when_the_handler_has_answered(store: Store, streams: Streams) -> None:
    async def left() -> float:
        question = "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM run_gateway.subscriptions"
        return float(await streams.value(question))

    await store.create("s", webhook("http://127.0.0.1:9/hook", lease_ttl_ms=200_000))
    await streams.create("runs/1", b"1")
    assert await woken(store)
    assert 100 < await left() <= 200
    [delivery] = await claim_deliveries(store, 300, 10)
    assert 400 < await left() <= 500
    await store.delivered(delivery)
    assert 100 < await left() <= 200


async def test_done_does_not_take_back_what_was_acked_further(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [delivery] = await claim_deliveries(store, 15, 10)
    await streams.append("runs/1")
    await store.settle("s", None, 1, Settlement(1, delivery.wake_id, (Ack("runs/1", 2),), False))
    assert not await store.finished(delivery)
    assert cursors(await store.get("s")) == {"runs/1": 2}


async def test_done_acks_nothing_of_a_stream_made_anew(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1", b"2")
    await streams.create("runs/2", b"1")
    assert await woken(store)
    (delivery,) = await claim_deliveries(store, 60, 9)
    await streams.delete("runs/1")
    await streams.create("runs/1", b"3", b"4", b"5")
    assert await store.finished(delivery), "there is more to be told"
    (following,) = await claim_deliveries(store, 60, 9)
    assert {link.path: (link.acked, link.tail, link.pending) for link in following.links} == {
        "runs/1": (-1, 3, True),
        "runs/2": (1, 1, False),
    }
    assert not await store.finished(following)


async def test_done_acks_what_the_wake_named_and_nothing_later(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [delivery] = await claim_deliveries(store, 15, 10)
    await streams.append("runs/1")
    assert await store.finished(delivery)
    assert cursors(await store.get("s")) == {"runs/1": 1}
    assert not await store.finished(delivery)  # said twice, counted once
    [following] = await claim_deliveries(store, 15, 10)
    assert following.generation == 2
    assert not await store.finished(following)
    assert cursors(await store.get("s")) == {"runs/1": 2}


async def test_the_schedule_of_retries_is_kept_in_the_database(store: Store, streams: Streams) -> None:
    await store.create("s", webhook("http://127.0.0.1:9/hook", lease_ttl_ms=1000))
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [delivery] = await claim_deliveries(store, 15, 10)
    await store.failed(delivery, 300)
    assert (await store.get("s")).failing
    assert await claim_deliveries(store, 15, 10) == []
    row = await streams.row(
        "SELECT next_attempt_at - clock_timestamp() AS attempt, lease_until - next_attempt_at AS lease"
        " FROM run_gateway.subscriptions"
    )
    assert 200 < row["attempt"].total_seconds() <= 300
    assert row["lease"].total_seconds() == pytest.approx(1, abs=0.1)  # the wake stays in flight until then
    await streams.pass_attempt("s")
    [retry] = await claim_deliveries(store, 15, 10)
    assert (retry.wake_id, retry.failures) == (delivery.wake_id, 1)
    await store.delivered(retry)
    assert not (await store.get("s")).failing
    assert await claim_deliveries(store, 15, 10) == []


async def test_a_handler_that_calls_back_is_not_told_again(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [delivery] = await claim_deliveries(store, 15, 10)
    await store.failed(delivery, 0)  # its answer was lost on the way
    await store.settle("s", None, 1, Settlement(1, delivery.wake_id, (Ack("runs/1", 1),), False))
    assert await claim_deliveries(store, 15, 10) == []
    assert not (await store.get("s")).failing


async def test_reports_of_an_earlier_wake_change_nothing(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [late] = await claim_deliveries(store, 15, 10)
    await streams.pass_lease("s")
    assert await woken(store)
    for report in (store.delivered(late), store.failed(late, 60), store.give_back(late), store.finished(late)):
        await report
    [current] = await claim_deliveries(store, 15, 10)
    assert (current.generation, current.failures) == (2, 0)
    assert cursors(await store.get("s")) == {"runs/1": -1}
