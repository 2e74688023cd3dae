"""Many subscriptions are woken at once, and each for itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.log.database import Database
from gateway.subscriptions.store import Store
from gateway.subscriptions.waking import Waking
from tests.subscriptions.store_tools import held
from tests.subscriptions.tools import Streams, eventually, pull_wake, webhook

HOLD = "SELECT FROM run_gateway.streams WHERE path = '{}' FOR UPDATE"
LAST = "UPDATE run_gateway.subscriptions SET generation = 9223372036854775807 WHERE id = $1"
SLOW = """
    CREATE OR REPLACE FUNCTION run_gateway.has_work(wanted bigint, wanted_path text) RETURNS boolean
    LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.2); RETURN true; END $$
"""


async def subscribed(store: Store, streams: Streams, *wake_streams: str) -> dict[int, str | None]:
    """A subscription written to each, named by its place, with work to do. Returns what to wake."""
    for name in set(wake_streams):
        await streams.create(name)
    for place, name in enumerate(wake_streams):
        await store.create(str(place), pull_wake(wake_stream=name))
    await streams.create("runs/1", b"1")
    return dict(sorted(await store.neglected(1_000)))


async def told(streams: Streams, wake_stream: str) -> list[str]:
    return sorted(event["subscription_id"] for event in await streams.read(wake_stream))


async def test_all_are_woken_by_one_statement(
    store: Store, streams: Streams, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    wakes = await subscribed(store, streams, *["wake"] * 30)
    await store.create("hook", webhook("http://127.0.0.1:9/hook"))
    await streams.append("runs/1")
    asked = 0
    acquire = database.acquire

    @asynccontextmanager
    async def counted(*arguments: Any, **named: Any) -> AsyncIterator[Any]:
        nonlocal asked
        asked += 1
        async with acquire(*arguments, **named) as connection:
            yield connection

    candidates = await store.to_wake(["runs/1"], 200)
    monkeypatch.setattr(database, "acquire", counted)
    assert len(candidates) == len(wakes) + 1
    assert await Waking(store, ring=lambda: None).wake(candidates)
    assert asked == 1
    assert await told(streams, "wake") == sorted(map(str, range(30)))
    assert len(await store.due(9, 9)) == 1
    assert await store.neglected(1_000) == []


async def test_one_that_is_held_is_waited_for_by_nobody(store: Store, streams: Streams, database_url: str) -> None:
    wakes = await subscribed(store, streams, "busy", "free", "busy", "free")
    numbers = list(wakes)
    async with held(database_url, HOLD.format("busy")):
        outcome = await store.wake(wakes)
        assert (outcome.woken, list(outcome.held), list(outcome.late)) == (2, [numbers[0], numbers[2]], [])
        assert await told(streams, "free") == ["1", "3"]
        assert not (await store.get("0")).failing, "it has not been tried yet"
    held_by_somebody = f"SELECT FROM run_gateway.subscriptions WHERE number = {numbers[0]} FOR UPDATE"
    async with held(database_url, held_by_somebody):
        outcome = await store.wake(wakes)
        assert (outcome.woken, list(outcome.held)) == (1, [numbers[0]])
    assert (await store.wake(wakes)).woken == 1
    assert await told(streams, "busy") == ["0", "2"]


async def test_of_a_stream_that_stays_held_all_wakes_are_put_off(
    store: Store, streams: Streams, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    wakes = await subscribed(store, streams, "busy", "busy", "free", "other")
    numbers = list(wakes)
    async with held(database_url, HOLD.format("busy")):
        outcome = await store.wake(wakes, patient=True)
    assert (outcome.woken, list(outcome.held), list(outcome.late)) == (0, numbers[2:], []), "one stream at a time"
    for id in ("0", "1"):
        assert (await store.get(id)).wake_error == "Another transaction holds stream busy."
    assert store.unwritten == 2 and caplog.text.count("A wake could not be written") == 1
    assert sorted(number for number, _ in await store.neglected(9)) == numbers[2:], "their pause is not over"


async def test_a_fault_costs_a_subscription_its_own_turn(
    store: Store, streams: Streams, caplog: pytest.LogCaptureFixture
) -> None:
    wakes = await subscribed(store, streams, *["wake"] * 4)
    await streams.value(LAST, "2")
    with caplog.at_level(logging.ERROR):
        assert (await store.wake(wakes)).woken == 3
    assert "A subscription could not be woken; it is tried again: 2: bigint out of range" in caplog.text
    assert await told(streams, "wake") == ["0", "1", "3"]


async def test_a_call_ends_soon_and_the_rest_is_asked_for_again(store: Store, streams: Streams) -> None:
    wakes = await subscribed(store, streams, *["wake"] * 3)
    numbers = list(wakes)
    await streams.value(SLOW)
    outcome = await store.wake(wakes)
    assert (outcome.woken, list(outcome.held), list(outcome.late)) == (1, [], numbers[1:])
    assert await Waking(store, ring=lambda: None).wake(list(wakes.items()))
    assert await told(streams, "wake") == ["0", "1", "2"]


async def test_what_is_held_is_woken_in_the_background(store: Store, streams: Streams, database_url: str) -> None:
    wakes = await subscribed(store, streams, "busy", "free")
    rung = asyncio.Event()
    waking = Waking(store, rung.set)
    try:
        row = f"SELECT FROM run_gateway.subscriptions WHERE number = {min(wakes)} FOR UPDATE"
        async with held(database_url, row):
            assert await waking.wake(list(wakes.items()))
            assert await told(streams, "free") == ["1"]
            assert not rung.is_set()
        await eventually(rung.is_set)
        assert await told(streams, "busy") == ["0"]
    finally:
        await waking.close()
