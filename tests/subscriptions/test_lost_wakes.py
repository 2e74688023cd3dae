"""Wakes that cannot be written: they are tried again, with growing pauses, and it is told why."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gateway.subscriptions.errors import Code
from gateway.subscriptions.store import Store
from tests.subscriptions.store_tools import held, refused, woken
from tests.subscriptions.tools import Streams, pull_wake, webhook

PAUSE = "SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8 FROM run_gateway.subscriptions"


async def due(streams: Streams) -> None:
    """Moves time: the next try is due."""
    await streams.value("UPDATE run_gateway.subscriptions SET next_attempt_at = clock_timestamp()")


async def missing(_: Streams) -> None:
    pass


async def closed(streams: Streams) -> None:
    await streams.create("wake")
    await streams.close("wake")


async def of_bytes(streams: Streams) -> None:
    await streams.value("SELECT run_gateway.create('wake', 'text/plain')")


@pytest.mark.parametrize("unfit", [missing, closed, of_bytes])
async def test_a_wake_that_cannot_be_written_is_retried_until_it_can(
    store: Store, streams: Streams, caplog: pytest.LogCaptureFixture, unfit: Any
) -> None:
    await store.create("s", pull_wake())
    await unfit(streams)
    await streams.create("runs/1", b"1")
    with caplog.at_level(logging.WARNING):
        assert not await woken(store)
    assert "A wake could not be written" in caplog.text and store.unwritten == 1
    told = await store.get("s")
    assert told.failing and told.wake_error is not None and "wake" in told.wake_error
    assert not await woken(store) and store.unwritten == 1, "its pause is not over"
    assert await store.to_wake(["runs/1"], 10) == []
    await streams.delete("wake") if unfit is not missing else None
    await streams.create("wake")
    await due(streams)
    assert await woken(store)
    assert [event["generation"] for event in await streams.read("wake")] == [1]
    told = await store.get("s")
    assert not told.failing and told.wake_error is None
    assert (await store.claim("s", "w")).generation == 1


async def test_its_pauses_grow_to_a_minute(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    pauses = []
    for _ in range(9):
        await woken(store)
        pauses.append(await streams.value(PAUSE))
        await due(streams)
    assert all(0.5 * wanted < pause < 1.3 * wanted for wanted, pause in zip([1, 2, 4, 8, 16, 32], pauses, strict=False))
    assert all(pause <= 72 for pause in pauses)
    assert store.unwritten == 9


async def test_a_wake_whose_stream_was_made_anew_is_written_again(store: Store, streams: Streams) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    assert await woken(store)
    assert not await woken(store), "it is written, and waits for a worker"
    await streams.delete("wake")
    assert not await woken(store)
    assert (await store.get("s")).wake_error == "There is no stream at wake."
    await streams.create("wake")
    await due(streams)
    assert await woken(store)
    assert [event["generation"] for event in await streams.read("wake")] == [1], "the very wake that was in flight"
    assert not await woken(store)


async def test_a_wake_that_a_worker_holds_is_not_written_again(store: Store, streams: Streams) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    assert await woken(store)
    await store.claim("s", "w")
    await streams.delete("wake")
    await streams.create("wake")
    assert not await woken(store)
    assert await streams.read("wake") == []


async def test_what_was_deaf_before_the_update_is_woken(store: Store, streams: Streams) -> None:
    """The version before counted a generation whose wake was written nowhere."""
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    await streams.value(
        "UPDATE run_gateway.subscriptions SET generation = 1, wake_id = 'w_lost', lease_until = NULL, told = NULL"
    )
    assert await woken(store)
    assert [event["generation"] for event in await streams.read("wake")] == [1]
    assert (await store.claim("s", "w")).wake_id == "w_lost"


async def test_a_locked_wake_stream_holds_up_no_other(store: Store, streams: Streams, database_url: str) -> None:
    for name in ("wake", "other"):
        await streams.create(name)
    await store.create("s", pull_wake())
    await store.create("t", pull_wake(wake_stream="other"))
    await streams.create("runs/1", b"1")
    async with held(database_url, "SELECT run_gateway.append('wake', '1')"):
        assert await woken(store)
        assert len(await streams.read("other")) == 1
        assert (await store.get("s")).wake_error == "Another transaction holds stream wake."
    await due(streams)
    assert await woken(store)
    [_, event] = await streams.read("wake")  # the first is that transaction's
    assert event["subscription_id"] == "s"


@pytest.mark.parametrize("unfit", [closed, of_bytes])
async def test_a_wake_stream_that_cannot_be_one_is_refused(store: Store, streams: Streams, unfit: Any) -> None:
    await unfit(streams)
    await refused(Code.WAKE_STREAM_REJECTED, store.create("s", pull_wake()))
    await refused(Code.SUBSCRIPTION_NOT_FOUND, store.get("s"))
    assert await store.create("hook", webhook("http://127.0.0.1:9/hook", wake_stream="wake")), "which uses none"


async def test_a_wake_stream_that_its_forks_keep_is_refused(store: Store, streams: Streams) -> None:
    await streams.create("wake")
    await streams.create("fork", fork_of="wake")
    await streams.delete("wake")
    await refused(Code.WAKE_STREAM_REJECTED, store.create("s", pull_wake()))


async def test_an_error_names_streams_as_its_tenant_does(store: Store, streams: Streams) -> None:
    await store.create("acme\x1fs", pull_wake().within("acme"))
    await streams.create("acme\x1fruns/1", b"1")
    assert not await woken(store)
    assert (await store.get("acme\x1fs")).wake_error == "There is no stream at wake."
