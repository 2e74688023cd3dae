"""Linking subscriptions to what exists: in steps, without holding up who makes streams, and without missing one."""

from __future__ import annotations

import asyncio

import pytest

from gateway.log.database import Database
from gateway.protocol.errors import Unavailable
from gateway.subscriptions import Subscriptions
from gateway.subscriptions.errors import Code, LinkingGoesOn
from gateway.subscriptions.store import Store
from tests.log.rig import connected
from tests.subscriptions.store_tools import cursors, held, pending, refused
from tests.subscriptions.tools import Streams, eventually, pull_wake, wanted

ANY = pull_wake("**", "wake")


async def link(store: Store) -> None:
    """What every Machine does in the background, until there is nothing more to do now."""
    for number, tenant in await store.unlinked(100):
        while await store.link_next(number, tenant):
            pass


async def test_an_open_transaction_that_makes_a_stream_holds_up_nobody(
    store: Store, streams: Streams, database_url: str
) -> None:
    await streams.create("runs/old", b"1")
    async with held(database_url, "SELECT run_gateway.create('runs/open'), run_gateway.append('runs/open', '1')"):
        assert await store.create("s", pull_wake())
        assert cursors(await store.get("s")) == {"runs/old": 1}, "answered, with all that is there"
        await streams.create("runs/new", b"1")
        assert await store.create("t", wanted(type="pull-wake", streams=["runs/open"], wake_stream="wake"))
        await store.add_streams("t", ["runs/old"])
        await store.remove_stream("t", "runs/old")
        await link(store)
        assert len(await store.unlinked(10)) == 2, "they wait for what that transaction makes"
    await link(store)
    assert cursors(await store.get("s")) == {"runs/old": 1, "runs/new": -1, "runs/open": -1}
    assert pending(await store.claim("s", "w")) == {"runs/new": 1, "runs/open": 1}
    assert pending(await store.claim("t", "w")) == {"runs/open": 1}
    assert await store.unlinked(10) == []


async def test_other_tenants_transactions_are_not_waited_for(store: Store, database_url: str) -> None:
    async with held(database_url, "SELECT run_gateway.create(E'acme\\x1fruns/1')"):
        await store.create("globex\x1fs", ANY.within("globex"))
        assert await store.unlinked(10) == []
        await store.create("acme\x1fs", ANY.within("acme"))
        assert len(await store.unlinked(10)) == 1


async def test_a_transaction_that_rolls_back_is_not_waited_for(store: Store, database_url: str) -> None:
    async with connected(database_url) as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SELECT run_gateway.create('runs/1')")
        await store.create("s", pull_wake())
        await transaction.rollback()
    await link(store)
    assert await store.unlinked(10) == []
    assert cursors(await store.get("s")) == {}


async def test_many_streams_are_linked_in_steps_while_others_are_made(
    database: Database, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.store._LINK_ROWS", 7)
    store = Store(database)
    for number in range(40):
        await streams.create(f"runs/{number:02}", b"1")
    steps = 0
    link_next = store.link_next

    async def watched(number: int, tenant: str) -> bool:
        nonlocal steps
        steps += 1
        await streams.create(f"runs/new-{steps}", b"1")  # would wait, were anything held between two steps
        await streams.delete(f"runs/{39 - steps:02}")
        return await link_next(number, tenant)

    monkeypatch.setattr(store, "link_next", watched)
    await store.create("s", pull_wake())
    assert steps > 5
    await link(store)
    linked = cursors(await store.get("s"))
    gone = {f"runs/{39 - step:02}" for step in range(1, steps + 1)}
    assert {path: at for path, at in linked.items() if "new" not in path} == {
        path: 1 for path in (f"runs/{n:02}" for n in range(40)) if path not in gone
    }
    assert {path for path in linked if "new" in path} == {f"runs/new-{step + 1}" for step in range(steps)}
    assert {at for path, at in linked.items() if "new" in path} <= {-1}


async def test_what_a_machine_left_half_linked_another_finishes(
    database: Database, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.store._LINK_ROWS", 2)
    store = Store(database)
    for number in range(9):
        await streams.create(f"runs/{number}", b"1")
    monkeypatch.setattr("gateway.subscriptions.store._LONGEST_LINKING", 0.0)
    with pytest.raises(LinkingGoesOn) as answer:
        await store.create("s", pull_wake())
    assert isinstance(answer.value, Unavailable) and answer.value.status == 503
    assert len(cursors(await store.get("s"))) < 9
    other = Subscriptions(database, base_url="http://127.0.0.1:1", scan_interval=0.01)
    await other.start()
    try:
        await eventually(lambda: finished(store))
        assert cursors(await store.get("s")) == {f"runs/{number}": 1 for number in range(9)}
        monkeypatch.setattr("gateway.subscriptions.store._LONGEST_LINKING", 30.0)
        assert not await store.create("s", pull_wake()), "asked again, it is confirmed"
    finally:
        await other.stop()


async def finished(store: Store) -> bool:
    return not await store.unlinked(10)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("runs/*", "runs/1"),
        ("runs/1/*", "runs/1/x"),
        ("runs/1", "runs/1"),
        ("**", "a/b"),
        ("*/b", "a/b"),
        ("a/b/**", "/a//b/c"),
        ("a/b", "//a/b/"),
        ("a/**/z", "a/z"),
        ("a/b/c/d/e/f/g/h/i/j", "a/b/c/d/e/f/g/h/i/j"),
        ("%2A/x", "*/x"),
        ("!x/*", "!x/1"),
        ("été/*", "été/1"),
    ],
)
@pytest.mark.parametrize("tenant", ["", "acme\x1f"])
async def test_a_pattern_finds_streams_before_and_after(
    store: Store, streams: Streams, pattern: str, path: str, tenant: str
) -> None:
    for other in ("zzz/1", f"other\x1f{path}"):
        await streams.create(other, b"1")
    await streams.create(tenant + path, b"1")
    await store.create(f"{tenant}before", pull_wake(pattern, "wake").within(tenant.rstrip("\x1f")))
    assert cursors(await store.get(f"{tenant}before")).get(tenant + path) == 1
    await streams.delete(tenant + path)
    await streams.create(tenant + path, b"1")
    linked = cursors(await store.get(f"{tenant}before"))
    assert linked.pop(tenant + path) == -1
    assert set(linked) <= ({"zzz/1"} if not tenant and pattern == "**" else set())


async def test_making_a_stream_asks_only_subscriptions_that_may_match(streams: Streams, database_url: str) -> None:
    await streams.value(
        "INSERT INTO run_gateway.subscriptions (id, type, pattern, pattern_head, pattern_regex, lease_ttl, config_hash)"
        " SELECT E'acme\\x1f' || n, 'webhook', 'runs/' || n, 'runs/' || n, '^/+runs/+' || n || '/*$', '1 s', ''"
        " FROM generate_series(1, 5000) n"
    )
    async with connected(database_url) as connection:
        await connection.execute("ANALYZE run_gateway.subscriptions")
        await connection.execute("SELECT pg_stat_reset()")
        plan = await connection.fetch(
            "EXPLAIN SELECT s.number FROM run_gateway.subscriptions s WHERE s.tenant = 'acme'"
            " AND s.pattern_head = ANY (run_gateway.heads_of(E'acme\\x1fruns/7'))"
            " AND run_gateway.covers(s, E'acme\\x1fruns/7')"
        )
    text = "\n".join(row[0] for row in plan)
    assert "subscriptions_candidates" in text and "Seq Scan" not in text
    await streams.create("acme\x1fruns/7", b"1")
    assert await streams.value("SELECT count(*) FROM run_gateway.subscription_links") == 1


async def test_a_tenant_has_so_many_subscriptions_and_others_theirs(database: Database) -> None:
    store = Store(database, most=3)
    for number in range(3):
        await store.create(f"acme\x1f{number}", ANY.within("acme"))
    refusal = await refused(Code.TOO_MANY_SUBSCRIPTIONS, store.create("acme\x1f3", ANY.within("acme")))
    assert refusal.message == "At most 3 subscriptions for each tenant"
    assert not await store.create("acme\x1f1", ANY.within("acme")), "one that it has is confirmed"
    assert await store.create("1", ANY)
    await store.delete("acme\x1f1")
    assert await store.create("acme\x1f3", ANY.within("acme"))


async def test_a_subscription_has_so_many_explicit_streams(
    store: Store, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.store.MAX_STREAMS", 3)
    await streams.create("a")
    await store.create("s", wanted(type="pull-wake", streams=["a", "b"], wake_stream="wake"))
    await refused(Code.TOO_MANY_STREAMS, store.add_streams("s", ["c", "d"]))
    assert set(cursors(await store.get("s"))) == {"a", "b"}
    await store.add_streams("s", ["a", "c"])
    await store.remove_stream("s", "a")
    await store.add_streams("s", ["d"])


async def test_links_and_new_streams_never_deadlock(store: Store, streams: Streams, database_url: str) -> None:
    """Who adds streams holds a link of one that is being made: it steps back, and the maker goes on."""
    await store.create("s", wanted(type="pull-wake", streams=["b"], wake_stream="wake"))
    async with connected(database_url) as maker:
        transaction = maker.transaction()
        await transaction.start()
        await maker.execute("SELECT run_gateway.create('b')")  # holds the link of b
        adding = asyncio.create_task(store.add_streams("s", ["a", "b"]))
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        await eventually(lambda: streams.value(waits))
        await maker.execute("SELECT run_gateway.create('a')")  # whose link is not committed yet
        await transaction.commit()
    await adding
    await link(store)
    assert cursors(await store.get("s")) == {"a": 0, "b": 0}


async def test_no_subscription_change_waits_for_another_tenants(store: Store, database_url: str) -> None:
    await store.create("acme\x1fs", ANY.within("acme"))
    async with held(database_url, "SELECT 1 FROM run_gateway.subscriptions WHERE id LIKE 'acme%' FOR UPDATE"):
        await store.create("globex\x1fs", ANY.within("globex"))
        await store.delete("globex\x1fs")
