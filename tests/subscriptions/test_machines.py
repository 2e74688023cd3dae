"""Two Machines over one database: what one leaves, the other goes on with."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.log.database import Database
from gateway.protocol.batch import News
from gateway.protocol.errors import Unavailable
from gateway.subscriptions import Subscriptions
from gateway.subscriptions.keyring import read_keys
from gateway.subscriptions.rules import Ack, Settlement
from gateway.subscriptions.signing import Keys
from gateway.subscriptions.store import Store
from tests.subscriptions.store_tools import claim_deliveries
from tests.subscriptions.tools import (
    Received,
    Receiver,
    Streams,
    die,
    eventually,
    hangs,
    idle,
    pull_wake,
    says,
    webhook,
)

BASE = "https://gateway.example"
DONE = b'{"done":true}'
OFFSET = "0000000000000000_000000000000000%d"


@pytest_asyncio.fixture
async def machines(database: Database) -> AsyncIterator[tuple[Subscriptions, Subscriptions]]:
    """Two that look for neglected work often."""
    async with AsyncExitStack() as stack:
        pair = (
            Subscriptions(database, base_url=BASE, scan_interval=0.1),
            Subscriptions(database, base_url=lambda: BASE, scan_interval=0.1),
        )
        for machine in pair:
            await machine.start()
            stack.push_async_callback(machine.stop)
        yield pair


@pytest_asyncio.fixture
async def slow_machine(database: Database) -> AsyncIterator[Subscriptions]:
    """One that hardly ever looks by itself: what it does soon, it was told of."""
    machine = Subscriptions(database, base_url=BASE, scan_interval=3600)
    await machine.start()
    yield machine
    await machine.stop()


async def acked(store: Store, path: str = "runs/1") -> int:
    return next(link.acked for link in (await store.get("s")).links if link.path == path)


async def test_an_append_elsewhere_is_delivered_once(
    machines: tuple[Subscriptions, ...], database: Database, store: Store, streams: Streams, receiver: Receiver
) -> None:
    receiver.answer = says(DONE)
    await store.create("s", webhook(receiver.url))
    await streams.create("runs/1", b"1", b"2")

    async def done() -> bool:
        return await acked(store) == 2

    await eventually(done)
    [received] = receiver.received
    token = received.body.pop("callback_token")
    assert {name: value for name, value in received.body.items() if name not in ("callback_token", "wake_id")} == {
        "subscription_id": "s",
        "generation": 1,
        "streams": [
            {
                "path": "runs/1",
                "link_type": "glob",
                "acked_offset": "-1",
                "tail_offset": OFFSET % 2,
                "has_pending": True,
            }
        ],
        "callback_url": "https://gateway.example/v1/stream/__ds/subscriptions/s/callback",
    }
    keys = await read_keys(database)
    assert keys.check_token(token, "s", 0) == ("s", 1)
    assert received.head["content-type"] == "application/json"
    _verify(keys, received)


def _verify(keys: Keys, received: Received) -> None:
    fields = dict(part.split("=", 1) for part in received.head["webhook-signature"].split(","))
    jwk = next(key for key in keys.jwks()["keys"] if key["kid"] == fields["kid"])
    key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(jwk["x"] + "="))
    signature = base64.urlsafe_b64decode(fields["ed25519"] + "==")
    key.verify(signature, fields["t"].encode() + b"." + received.raw)


async def test_an_append_here_is_delivered_at_once(
    slow_machine: Subscriptions, store: Store, streams: Streams, receiver: Receiver
) -> None:
    receiver.answer = says(DONE)
    await store.create("s", webhook(receiver.url))
    await slow_machine._changed()  # as the route that created it does
    await idle(slow_machine)
    await streams.create("runs/1", b"1")
    slow_machine.appended("runs/1")
    slow_machine.appended("other")
    await eventually(lambda: len(receiver.received) == 1)

    async def done() -> bool:
        return await acked(store) == 1

    await eventually(done)
    await idle(slow_machine)
    await streams.append("runs/1")
    slow_machine.appended("runs/1")
    await eventually(lambda: len(receiver.received) == 2)


async def test_what_comes_while_a_wake_is_in_flight_is_the_next_wakes(
    slow_machine: Subscriptions, store: Store, streams: Streams, receiver: Receiver
) -> None:
    async def more_and_done(_: Received) -> bytes:
        if len(receiver.received) < 4:
            await streams.append("runs/1")
            slow_machine.appended("runs/1")
        return await says(DONE)(_)

    receiver.answer = more_and_done
    await store.create("s", webhook(receiver.url))
    await slow_machine._changed()
    await streams.create("runs/1", b"1")
    slow_machine.appended("runs/1")
    await eventually(lambda: len(receiver.received) == 4)
    assert [(received.body["generation"], received.work()) for received in receiver.received] == [
        (number, {"runs/1": OFFSET % number}) for number in range(1, 5)
    ]


async def test_a_dead_machines_append_is_noticed_by_another(
    machines: tuple[Subscriptions, Subscriptions], store: Store, streams: Streams, receiver: Receiver
) -> None:
    await store.create("s", webhook(receiver.url))
    await die(machines[0])
    await streams.create("runs/1", b"1")
    machines[0].appended("runs/1")
    await eventually(lambda: len(receiver.received) == 1)


async def test_a_delivery_under_way_on_a_dead_machine_is_made_again(
    database: Database, store: Store, streams: Streams, receiver: Receiver
) -> None:
    receiver.answer, called = hangs()
    first = Subscriptions(database, base_url=BASE, scan_interval=0.1)
    await first.start()
    await store.create("s", webhook(receiver.url))
    await streams.create("runs/1", b"1")
    await called.wait()
    await die(first)

    receiver.answer = says(DONE)
    second = Subscriptions(database, base_url=BASE, scan_interval=0.1)
    await second.start()
    try:
        assert await claim_deliveries(store, 15, 1) == []  # its time is not up yet
        await streams.pass_attempt("s")

        async def done() -> bool:
            return await acked(store) == 1

        await eventually(done)
        one, other = receiver.received
        assert (one.body["wake_id"], one.body["generation"]) == (other.body["wake_id"], other.body["generation"])
    finally:
        await second.stop()


async def test_a_lease_that_ran_out_on_a_dead_machine_makes_a_new_wake(
    machines: tuple[Subscriptions, Subscriptions], store: Store, streams: Streams, receiver: Receiver
) -> None:
    await store.create("s", webhook(receiver.url))
    await streams.create("runs/1", b"1")
    await eventually(lambda: len(receiver.received) == 1)
    await die(machines[0])
    await streams.pass_lease("s")
    await eventually(lambda: len(receiver.received) == 2)
    assert [received.body["generation"] for received in receiver.received] == [1, 2]


async def test_a_machine_that_stops_hands_its_deliveries_over_at_once(
    database: Database, store: Store, streams: Streams, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.dispatcher._PARTING", 0.05)
    receiver.answer, called = hangs()
    machine = Subscriptions(database, base_url=BASE, scan_interval=0.1)
    await machine.start()
    await store.create("s", webhook(receiver.url))
    await streams.create("runs/1", b"1")
    await called.wait()
    await machine.stop()
    assert [delivery.generation for delivery in await claim_deliveries(store, 15, 1)] == [1]


async def test_a_handler_that_fails_is_tried_again_by_whoever_is_there(
    machines: tuple[Subscriptions, Subscriptions],
    store: Store,
    streams: Streams,
    receiver: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.answer = says(b"no", "500 Oh")
    with caplog.at_level(logging.WARNING):
        await store.create("s", webhook(receiver.url))
        await streams.create("runs/1", b"1")

        async def failing() -> bool:
            return (await store.get("s")).failing

        await eventually(failing)
    assert "status 500" in caplog.text
    receiver.answer = says(DONE)
    await streams.pass_attempt("s")

    async def done() -> bool:
        return await acked(store) == 1

    await eventually(done)
    assert not await failing()
    assert len(receiver.received) >= 2, "and it may have been tried in between, when its time had come"
    assert len({received.body["wake_id"] for received in receiver.received}) == 1


async def test_a_handler_may_take_its_time_and_call_back(
    machines: tuple[Subscriptions, Subscriptions], store: Store, streams: Streams, receiver: Receiver
) -> None:
    await store.create("s", webhook(receiver.url))
    await streams.create("runs/1", b"1")
    await eventually(lambda: len(receiver.received) == 1)
    wake = receiver.received[0].body
    await streams.append("runs/1")
    settlement = Settlement(1, wake["wake_id"], (Ack("runs/1", 1),), True)
    assert await store.settle("s", None, 1, settlement)
    await eventually(lambda: len(receiver.received) == 2)
    assert receiver.received[1].work() == {"runs/1": OFFSET % 2}


async def test_pull_wakes_are_told_of_once_whoever_looks(
    machines: tuple[Subscriptions, Subscriptions], store: Store, streams: Streams
) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await eventually(lambda: all(m._watch.interest and m._watch.interest.subscriptions for m in machines))
    for number in range(5):
        await streams.create(f"runs/{number}", b"1")
        for machine in machines:
            machine.appended(f"runs/{number}")

    async def told() -> bool:
        return bool(await streams.read("wake"))

    await eventually(told)
    claim = await store.claim("s", "w")
    acks = tuple(Ack(link.path, link.tail) for link in claim.links)
    left = await store.settle(
        "s", "pull-wake", claim.generation, Settlement(claim.generation, claim.wake_id, acks, True)
    )
    assert not left
    assert [event["generation"] for event in await streams.read("wake")] == [1]


async def test_a_change_on_one_machine_is_noticed_on_the_other(
    machines: tuple[Subscriptions, Subscriptions], store: Store
) -> None:
    assert not machines[1]._watch.notice("runs/1")
    await store.create("s", pull_wake())
    await eventually(lambda: machines[1]._watch.notice("runs/1"))
    await store.delete("s")
    await eventually(lambda: not machines[1]._watch.notice("runs/1"))


async def test_links_of_a_deleted_stream_are_tidied_away_by_the_way(
    machines: tuple[Subscriptions, Subscriptions], store: Store, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.dispatcher._TIDY_SOON", 0)
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    await streams.delete("runs/1")
    machines[0].ended(News("runs/1", 0, 0, deleted=True))

    async def tidy() -> bool:
        return await streams.value("SELECT count(*) = 0 FROM run_gateway.subscription_links") is True

    await eventually(tidy)


async def test_an_append_noticed_in_an_outage_is_not_forgotten(
    database: Database, streams: Streams, store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.create("s", webhook(receiver.url))
    machine = Subscriptions(database, base_url=BASE, scan_interval=0.05)
    await machine.start()
    try:
        dispatcher = machine._dispatcher
        assert dispatcher is not None
        await idle(machine)
        await streams.create("runs/1", b"1")
        with monkeypatch.context() as outage:
            outage.setattr(database, "acquire", _unavailable)
            dispatcher._look_at = float("inf")  # by itself it would not look for what it has missed
            machine.appended("runs/1")
            await eventually(lambda: dispatcher._outage.lasts)
        await eventually(lambda: len(receiver.received) == 1)
    finally:
        await machine.stop()


async def test_it_waits_for_a_database_that_is_away_and_goes_on(
    database: Database,
    streams: Streams,
    store: Store,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "gateway.subscriptions.dispatcher")
    receiver.answer = says(DONE)
    away = Database("postgresql://postgres@127.0.0.1:1/none", pool_size=1, statement_timeout=1)
    asked = 0

    def unavailable() -> object:
        nonlocal asked
        asked += 1
        raise Unavailable

    monkeypatch.setattr(away, "acquire", unavailable)
    machine = Subscriptions(away, base_url=BASE, scan_interval=0.3)  # between two rounds there is time to ring
    await machine.start()
    try:
        assert machine._dispatcher is not None

        def rung() -> bool:
            machine._dispatcher.ring()  # type: ignore[union-attr]
            return asked > 5

        await eventually(rung)
        assert caplog.messages == ["Subscriptions wait for the database (None)."], "once, and not that they go on"
        monkeypatch.setattr(away, "acquire", database.acquire)
        await store.create("s", webhook(receiver.url))
        await streams.create("runs/1", b"1")
        await eventually(lambda: len(receiver.received) == 1)
        assert caplog.messages[1] == "Subscriptions go on."
    finally:
        await machine.stop()


def _unavailable() -> object:
    raise Unavailable
