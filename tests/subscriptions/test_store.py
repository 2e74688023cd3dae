"""Subscriptions and their links to streams in the database: made, changed, taken away."""

from __future__ import annotations

import asyncio

from gateway.log.database import Database
from gateway.subscriptions.errors import Code
from gateway.subscriptions.rules import Ack, Wanted
from gateway.subscriptions.store import Store
from tests.subscriptions.store_tools import HOOK, claim_deliveries, cursors, pending, refused, settlement, woken
from tests.subscriptions.tools import Streams, pull_wake, wanted, webhook


async def test_creating_again_confirms_and_differently_conflicts(store: Store) -> None:
    assert await store.create("s", HOOK)
    assert not await store.create("s", HOOK)
    await refused(Code.SUBSCRIPTION_ALREADY_EXISTS, store.create("s", webhook("http://127.0.0.1:9/other")))
    assert (await store.get("s")).webhook_url == "http://127.0.0.1:9/hook"


async def test_of_many_that_create_one_does(store: Store) -> None:
    assert sorted(await asyncio.gather(*(store.create("s", HOOK) for _ in range(6)))) == [False] * 5 + [True]


async def test_history_is_skipped_and_new_streams_are_read_whole(store: Store, streams: Streams) -> None:
    await streams.create("runs/old", b"1", b"2")
    await streams.create("other/old", b"1")
    await store.create("s", pull_wake())
    await streams.create("runs/new", b"1")
    await streams.create("runs/empty")
    await streams.create("other/new", b"1")
    assert cursors(await store.get("s")) == {"runs/old": 2, "runs/new": -1, "runs/empty": -1}
    assert pending(await store.claim("s", "w")) == {"runs/new": 1}


async def test_streams_and_subscriptions_made_at_once_are_all_linked(database: Database, streams: Streams) -> None:
    """Whoever comes first, a stream is linked: at its tail when it was there, from its beginning when it was not."""
    store = Store(database)

    async def make_streams(lane: int) -> None:
        for number in range(15):
            await streams.create(f"runs/{lane}-{number}", b"1")

    async def make_subscriptions() -> None:
        for number in range(15):
            await store.create(f"s{number}", pull_wake())

    await asyncio.gather(make_streams(0), make_streams(1), make_subscriptions())
    for number, tenant in await store.unlinked(100):  # what was being made is linked in the background
        while await store.link_next(number, tenant):
            pass
    for number in range(15):
        linked = cursors(await store.get(f"s{number}"))
        assert len(linked) == 30
        assert set(linked.values()) <= {-1, 1}


async def test_an_empty_stream_is_no_work(store: Store, streams: Streams) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1")
    assert not await woken(store)
    await refused(Code.NO_PENDING_WORK, store.claim("s", "w"))
    await streams.append("runs/1")
    assert await woken(store)


async def test_a_fork_is_a_new_stream_with_all_that_it_inherits(store: Store, streams: Streams) -> None:
    await streams.create("source", b"1", b"2")
    await store.create("s", pull_wake())
    await streams.create("runs/fork", fork_of="source")
    assert pending(await store.claim("s", "w")) == {"runs/fork": 2}


async def test_a_deleted_stream_loses_its_links_and_its_successor_none(store: Store, streams: Streams) -> None:
    both = ["runs/1", "x"]
    await store.create("s", wanted(type="pull-wake", pattern="runs/*", streams=both, wake_stream="wake"))
    for path in both:
        await streams.create(path, b"1")
    assert [(link.path, link.explicit, link.acked) for link in (await store.get("s")).links] == [
        ("runs/1", True, 0),
        ("x", True, 0),
    ]
    for path in both:
        await streams.delete(path)
    assert cursors(await store.get("s")) == {}
    assert not await woken(store)
    for path in both:
        await streams.create(path, b"1", b"2")
    assert [(link.path, link.explicit, link.acked) for link in (await store.get("s")).links] == [("runs/1", False, -1)]


async def test_a_stream_kept_alive_by_forks_is_deleted_all_the_same(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    await streams.create("fork", fork_of="runs/1")
    await streams.delete("runs/1")
    assert cursors(await store.get("s")) == {}


async def test_the_wake_stream_is_never_its_own_work(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake("**", "wake"))
    await streams.create("wake")
    await streams.create("a", b"1")
    assert await woken(store)
    claim = await store.claim("s", "w")
    assert pending(claim) == {"a": 1}
    assert not await store.settle("s", None, 1, settlement(claim, Ack("a", 1), done=True))


async def test_explicit_links_wait_for_streams_that_do_not_exist_yet(store: Store, streams: Streams) -> None:
    await streams.create("there", b"1", b"2")
    await store.create("s", wanted(type="pull-wake", streams=["there", "later"], wake_stream="wake"))
    assert cursors(await store.get("s")) == {"there": 2, "later": 0}
    await streams.create("later", b"1")
    assert pending(await store.claim("s", "w")) == {"later": 1}


async def test_explicit_links_come_and_go_and_the_pattern_stays(store: Store, streams: Streams) -> None:
    await streams.create("runs/1", b"1")
    await store.create("s", pull_wake())
    await store.add_streams("s", ["runs/1", "x"])
    await streams.append("runs/1")
    await store.add_streams("s", ["runs/1"])  # again: its cursor stays where it is
    assert [(link.path, link.explicit, link.acked) for link in (await store.get("s")).links] == [
        ("runs/1", True, 1),
        ("x", True, 0),
    ]
    for path in ("runs/1", "x", "never/there"):
        await store.remove_stream("s", path)
    assert [(link.path, link.explicit, link.acked) for link in (await store.get("s")).links] == [("runs/1", False, 1)]
    await refused(Code.SUBSCRIPTION_NOT_FOUND, store.add_streams("none", ["x"]))
    await refused(Code.SUBSCRIPTION_NOT_FOUND, store.remove_stream("none", "x"))


async def test_closed_and_read_streams_are_never_looked_at_again(store: Store, streams: Streams) -> None:
    await streams.create("runs/before", b"1", closed=True)
    await store.create("s", HOOK)
    await streams.create("runs/closed", b"1", closed=True)
    await streams.create("runs/closed-later", b"1")
    await streams.create("runs/open", b"1")
    assert await woken(store)
    [delivery] = await claim_deliveries(store, 15, 10)
    await store.finished(delivery)
    await streams.close("runs/closed-later")
    assert await store.tidy(100) == 1
    assert await store.tidy(100) == 0
    unsettled = "SELECT array_agg(path) FROM run_gateway.subscription_links WHERE NOT settled"
    assert await streams.value(unsettled) == ["runs/open"]
    assert len((await store.get("s")).links) == 4


async def test_links_that_count_no_more_are_tidied_away(store: Store, streams: Streams) -> None:
    await store.create("gone", pull_wake())
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    await streams.create("runs/2", b"1")
    await store.delete("gone")
    await streams.delete("runs/1")
    assert [await store.tidy(2), await store.tidy(2), await store.tidy(2)] == [2, 1, 0]
    assert await streams.value("SELECT array_agg(path) FROM run_gateway.subscription_links") == ["runs/2"]


async def test_interest_is_read_again_only_when_it_has_changed(store: Store, streams: Streams) -> None:
    empty = await store.interest(None)
    assert (empty.subscriptions, empty.globs, empty.explicit) == (0, {}, frozenset())
    assert await store.interest(empty) is empty
    steps: list[Wanted] = [pull_wake("a/*"), pull_wake("a/*"), wanted(type="pull-wake", streams=["x"], wake_stream="w")]
    for number, step in enumerate(steps):
        await store.create(f"s{number}", step)
    known = await store.interest(empty)
    assert (known.subscriptions, [glob.pattern for glob in known.globs[""]], known.explicit) == (
        3,
        ["a/*"],
        frozenset("x"),
    )
    await streams.create("a/1", b"1")
    await store.claim("s0", "w")
    assert await store.interest(known) is known
    await store.add_streams("s0", ["y"])
    assert (await store.interest(known)).explicit == frozenset("xy")
    await store.delete("s2")
    assert (await store.interest(known)).subscriptions == 2
