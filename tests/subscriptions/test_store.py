from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from gateway.log.database import Database
from gateway.subscriptions.errors import Code, Refusal
from gateway.subscriptions.keyring import read_keys, rotate
from gateway.subscriptions.rules import Ack, Settlement, Wanted
from gateway.subscriptions.store import Store
from gateway.subscriptions.values import Claim, Subscription
from tests.subscriptions.tools import Streams, eventually, pull_wake, wanted, webhook

HOOK = webhook("http://127.0.0.1:9/hook")


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@asynccontextmanager
async def held(database_url: str, query: str) -> AsyncIterator[None]:
    """Meanwhile somebody else's transaction holds the locks of the query."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.fetch(query)
            yield
    finally:
        await connection.close()


def cursors(subscription: Subscription) -> dict[str, int]:
    return {link.path: link.acked for link in subscription.links}


def pending(claim: Claim) -> dict[str, int]:
    return {link.path: link.tail for link in claim.links if link.pending}


def settlement(claim: Claim, *acks: Ack, done: bool = False) -> Settlement:
    return Settlement(claim.generation, claim.wake_id, acks, done)


async def woken(store: Store) -> bool:
    """One look at everything; whether it woke somebody."""
    return any([await store.wake(number, path) for number, path in await store.neglected(100)])


async def refused(code: Code, attempt: object) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        await attempt  # type: ignore[misc]
    assert refusal.value.code is code
    return refusal.value


async def test_creating_again_confirms_and_creating_differently_conflicts(store: Store) -> None:
    assert await store.create("s", HOOK)
    assert not await store.create("s", HOOK)
    await refused(Code.SUBSCRIPTION_ALREADY_EXISTS, store.create("s", webhook("http://127.0.0.1:9/other")))
    assert (await store.get("s")).webhook_url == "http://127.0.0.1:9/hook"


async def test_of_many_that_create_one_does(store: Store) -> None:
    assert sorted(await asyncio.gather(*(store.create("s", HOOK) for _ in range(6)))) == [False] * 5 + [True]


async def test_history_is_not_replayed_but_what_comes_later_is_read_from_its_beginning(
    store: Store, streams: Streams
) -> None:
    await streams.create("runs/old", b"1", b"2")
    await streams.create("other/old", b"1")
    await store.create("s", pull_wake())
    await streams.create("runs/new", b"1")
    await streams.create("runs/empty")
    await streams.create("other/new", b"1")
    assert cursors(await store.get("s")) == {"runs/old": 2, "runs/new": -1, "runs/empty": -1}
    assert pending(await store.claim("s", "w")) == {"runs/new": 1}


async def test_streams_made_while_subscriptions_are_made_are_linked_to_all(
    database: Database, streams: Streams
) -> None:
    """Whoever comes first, a stream is linked: at its tail when it was there, from its beginning when it was not."""
    store = Store(database)

    async def make_streams(lane: int) -> None:
        for number in range(15):
            await streams.create(f"runs/{lane}-{number}", b"1")

    async def make_subscriptions() -> None:
        for number in range(15):
            await store.create(f"s{number}", pull_wake())

    await asyncio.gather(make_streams(0), make_streams(1), make_subscriptions())
    for number in range(15):
        linked = cursors(await store.get(f"s{number}"))
        assert len(linked) == 30
        assert set(linked.values()) <= {-1, 1}


async def test_an_empty_stream_is_no_work(store: Store, streams: Streams) -> None:
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


async def test_a_deleted_stream_loses_its_links_and_a_new_one_starts_over(store: Store, streams: Streams) -> None:
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


async def test_a_stream_that_its_forks_keep_alive_is_deleted_all_the_same(store: Store, streams: Streams) -> None:
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


async def test_of_many_machines_one_creates_the_wake(store: Store, streams: Streams, database_url: str) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    [(number, path)] = await store.to_wake(["runs/1", "runs/2"], 10)
    assert path == "runs/1"
    async with held(database_url, "SELECT FROM run_gateway.subscriptions FOR NO KEY UPDATE"):
        attempts = [asyncio.create_task(store.wake(number, path)) for _ in range(4)]
        await eventually(lambda: streams.value(f"SELECT ({WAITING}) = 4"))
    assert sorted(await asyncio.gather(*attempts)) == [False] * 3 + [True]
    [event] = await streams.read("wake")
    assert event.pop("ts") > 1_700_000_000_000
    assert event == {"type": "wake", "subscription_id": "s", "stream": "runs/1", "generation": 1}
    assert await store.to_wake(["runs/1"], 10) == []
    assert await store.neglected(10) == []


@pytest.mark.parametrize("closed", [False, True])
async def test_a_wake_without_a_stream_to_tell_it_on_is_made_and_warned_of(
    store: Store, streams: Streams, caplog: pytest.LogCaptureFixture, closed: bool
) -> None:
    if closed:
        await streams.create("wake", closed=True)
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    with caplog.at_level(logging.WARNING):
        assert await woken(store)
    assert "A wake event could not be written" in caplog.text
    assert (await store.claim("s", "w")).generation == 1


async def test_a_claim_is_one_workers_until_it_is_done(store: Store, streams: Streams) -> None:
    await streams.create("wake")
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    await streams.create("runs/2", b"1")
    claim = await store.claim("s", "first")
    assert pending(claim) == {"runs/1": 1, "runs/2": 1}
    refusal = await refused(Code.ALREADY_CLAIMED, store.claim("s", "second"))
    assert refusal.more == {"current_holder": "first", "generation": 1}
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


async def test_a_deleted_subscription_moves_no_cursor_even_when_it_is_made_again(
    store: Store, streams: Streams
) -> None:
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


async def test_an_expired_lease_fences_its_holder_and_makes_the_next_wake(store: Store, streams: Streams) -> None:
    await store.create("s", pull_wake())
    await streams.create("runs/1", b"1")
    late = await store.claim("s", "late")
    await streams.pass_lease("s")
    await refused(Code.FENCED, store.settle("s", None, 1, settlement(late, Ack("runs/1", 1), done=True)))
    assert await woken(store)
    assert (await store.claim("s", "next")).generation == 2
    await refused(Code.FENCED, store.settle("s", None, 1, settlement(late, Ack("runs/1", 1), done=True)))


async def test_a_claim_does_not_wait_until_somebody_finds_that_a_lease_has_expired(
    store: Store, streams: Streams
) -> None:
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


async def test_a_wake_whose_work_has_gone_does_not_keep_the_next_one_back(store: Store, streams: Streams) -> None:
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


async def test_a_delivery_is_one_machines_until_its_time_is_up(
    store: Store, streams: Streams, database_url: str
) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    async with held(database_url, "SELECT FROM run_gateway.subscriptions FOR NO KEY UPDATE"):
        assert await store.claim_deliveries(15, 10) == []  # somebody is at it: it is not waited for
    [first] = await store.claim_deliveries(15, 10)
    assert (first.id, first.url, first.generation, first.failures) == ("s", HOOK.webhook_url, 1, 0)
    assert await store.claim_deliveries(15, 10) == []
    await streams.pass_attempt("s")
    [second] = await store.claim_deliveries(15, 10)
    assert (second.wake_id, second.generation) == (first.wake_id, 1)


async def test_a_lease_outlasts_the_attempt_and_begins_when_the_handler_has_answered(
    store: Store, streams: Streams
) -> None:
    left = "SELECT extract(epoch FROM lease_until - clock_timestamp())::integer FROM run_gateway.subscriptions"
    await store.create("s", webhook("http://127.0.0.1:9/hook", lease_ttl_ms=2000))
    await streams.create("runs/1", b"1")
    assert await woken(store)
    assert await streams.value(left) == 2
    [delivery] = await store.claim_deliveries(15, 10)
    assert await streams.value(left) == 17
    await store.delivered(delivery)
    assert await streams.value(left) == 2


async def test_done_does_not_take_back_what_was_acked_further(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [delivery] = await store.claim_deliveries(15, 10)
    await streams.append("runs/1")
    await store.settle("s", None, 1, Settlement(1, delivery.wake_id, (Ack("runs/1", 2),), False))
    assert not await store.finished(delivery)
    assert cursors(await store.get("s")) == {"runs/1": 2}


async def test_done_acks_what_the_wake_told_of_and_nothing_that_came_since(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [delivery] = await store.claim_deliveries(15, 10)
    await streams.append("runs/1")
    assert await store.finished(delivery)
    assert cursors(await store.get("s")) == {"runs/1": 1}
    assert not await store.finished(delivery)  # said twice, counted once
    [following] = await store.claim_deliveries(15, 10)
    assert following.generation == 2
    assert not await store.finished(following)
    assert cursors(await store.get("s")) == {"runs/1": 2}


async def test_the_schedule_of_retries_is_kept_in_the_database(store: Store, streams: Streams) -> None:
    await store.create("s", webhook("http://127.0.0.1:9/hook", lease_ttl_ms=1000))
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [delivery] = await store.claim_deliveries(15, 10)
    await store.failed(delivery, 30)
    assert (await store.get("s")).failing
    assert await store.claim_deliveries(15, 10) == []
    row = await streams.row(
        "SELECT next_attempt_at - clock_timestamp() AS attempt, lease_until - next_attempt_at AS lease"
        " FROM run_gateway.subscriptions"
    )
    assert 28 < row["attempt"].total_seconds() <= 30
    assert row["lease"].total_seconds() == pytest.approx(1, abs=0.1)  # the wake stays in flight until then
    await streams.pass_attempt("s")
    [retry] = await store.claim_deliveries(15, 10)
    assert (retry.wake_id, retry.failures) == (delivery.wake_id, 1)
    await store.delivered(retry)
    assert not (await store.get("s")).failing
    assert await store.claim_deliveries(15, 10) == []


async def test_a_handler_that_calls_back_is_not_told_again(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [delivery] = await store.claim_deliveries(15, 10)
    await store.failed(delivery, 0)  # its answer was lost on the way
    await store.settle("s", None, 1, Settlement(1, delivery.wake_id, (Ack("runs/1", 1),), False))
    assert await store.claim_deliveries(15, 10) == []
    assert not (await store.get("s")).failing


async def test_reports_of_an_earlier_wake_change_nothing(store: Store, streams: Streams) -> None:
    await store.create("s", HOOK)
    await streams.create("runs/1", b"1")
    assert await woken(store)
    [late] = await store.claim_deliveries(15, 10)
    await streams.pass_lease("s")
    assert await woken(store)
    for report in (store.delivered(late), store.failed(late, 60), store.give_back(late), store.finished(late)):
        await report
    [current] = await store.claim_deliveries(15, 10)
    assert (current.generation, current.failures) == (2, 0)
    assert cursors(await store.get("s")) == {"runs/1": -1}


async def test_a_wake_tells_of_so_many_streams_and_the_next_of_the_rest(
    store: Store, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.store.MOST_WORK", 2)
    await streams.create("runs/0", b"1")
    await store.create("s", HOOK)
    for number in range(1, 4):
        await streams.create(f"runs/{number}", b"1")
    assert await woken(store)
    [delivery] = await store.claim_deliveries(15, 10)
    assert [link.path for link in delivery.links] == ["runs/1", "runs/2"]
    assert await store.finished(delivery)
    [rest] = await store.claim_deliveries(15, 10)
    assert [link.path for link in rest.links] == ["runs/3", "runs/0"]  # work first
    assert not await store.finished(rest)


async def test_what_is_closed_and_read_to_its_end_is_never_looked_at_again(store: Store, streams: Streams) -> None:
    await streams.create("runs/before", b"1", closed=True)
    await store.create("s", HOOK)
    await streams.create("runs/closed", b"1", closed=True)
    await streams.create("runs/closed-later", b"1")
    await streams.create("runs/open", b"1")
    assert await woken(store)
    [delivery] = await store.claim_deliveries(15, 10)
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


async def test_keys_are_made_once_and_shared(database: Database) -> None:
    made = await asyncio.gather(*(read_keys(database) for _ in range(4)))
    assert len({(keys.signer.kid, keys.token_key) for keys in made}) == 1


async def test_interest_is_read_again_only_when_it_has_changed(store: Store, streams: Streams) -> None:
    empty = await store.interest(None)
    assert (empty.subscriptions, empty.globs, empty.explicit) == (0, [], frozenset())
    assert await store.interest(empty) is empty
    steps: list[Wanted] = [pull_wake("a/*"), pull_wake("a/*"), wanted(type="pull-wake", streams=["x"], wake_stream="w")]
    for number, step in enumerate(steps):
        await store.create(f"s{number}", step)
    known = await store.interest(empty)
    assert (known.subscriptions, [glob.pattern for glob in known.globs], known.explicit) == (3, ["a/*"], frozenset("x"))
    await streams.create("a/1", b"1")
    await store.claim("s0", "w")
    assert await store.interest(known) is known
    await store.add_streams("s0", ["y"])
    assert (await store.interest(known)).explicit == frozenset("xy")
    await store.delete("s2")
    assert (await store.interest(known)).subscriptions == 2


async def test_a_new_key_is_published_before_it_signs_and_old_ones_go(database: Database) -> None:
    first = (await read_keys(database)).signer.kid
    await rotate(database)
    keys = await read_keys(database)
    assert keys.signer.kid == first, "other Machines may not publish the new one yet"
    assert len(keys.jwks()["keys"]) == 2
    async with database.acquire() as connection:
        await connection.execute("UPDATE run_gateway.subscription_keys SET created_at = now() - interval '3 minutes'")
    keys = await read_keys(database)
    assert keys.signer.kid != first
    assert first in [key["kid"] for key in keys.jwks()["keys"]], "what it signed stays verifiable"
    for _ in range(3):
        await rotate(database)
    published = [key["kid"] for key in (await read_keys(database)).jwks()["keys"]]
    assert len(published) == 3
    assert first not in published
