"""Ends by the clock, where nobody looked when they came or the clock was set: what the looks of Machines tell."""

from __future__ import annotations

import pytest

from gateway.log.connect import Connection
from gateway.protocol.errors import StreamNotFound
from gateway.runs.store import Store
from tests.log.rig import Log, connected, opened

LOOKED = (
    "INSERT INTO run_gateway.lease_looks (at, since) VALUES (now() - $1::text::interval, now() - interval '1 h')"
    " ON CONFLICT (one) DO UPDATE SET at = excluded.at, since = excluded.since"
)
ENDED = "UPDATE run_gateway.streams SET expires_at = now() - interval '1 min' WHERE path = 'a'"
FAR = "UPDATE run_gateway.streams SET lease_until = now() + interval '10 min'"
LEFT = "SELECT extract(epoch FROM lease_until - now()) FROM run_gateway.streams WHERE path = 'runs/a'"


async def look(log: Log) -> None:
    await Store(log.database, machine="m").end_lost(10, again=False)


async def stream(log: Log, other: Connection, *, looked: str, ttl: int | None = 60) -> None:
    """One whose end came a minute ago, when somebody had last looked so long ago."""
    await log.create("a", ttl=60)
    await other.execute(ENDED)
    if ttl is None:
        await other.execute("UPDATE run_gateway.streams SET ttl = NULL")
    await other.execute(LOOKED, looked)


async def test_a_ttl_that_ran_out_unheard_has_a_little_more(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as other:
        await stream(log, other, looked="10 min")
        assert (await log.reader.stat("a")).tail == 0
        assert await log.append("a", b"1"), "what is written slides it"
        await other.execute(ENDED)
        await look(log)
        await log.reader.stat("a")
        assert await other.fetchval("SELECT run_gateway.purge(10)") == 0
        await log.reader.touch(["a"])
        left = "SELECT extract(epoch FROM expires_at - now()) FROM run_gateway.streams"
        assert 50 < await other.fetchval(left) <= 60
        await other.execute(ENDED)
        for gone in ("since", "left_at"):
            await other.execute(f"UPDATE run_gateway.lease_looks SET {gone} = {gone} - interval '31 s'")
        with pytest.raises(StreamNotFound):
            await log.reader.stat("a")


@pytest.mark.parametrize(("looked", "ttl"), [("1 s", 60), ("50 s", 60), ("61 s", 60), ("10 min", None)])
async def test_an_end_that_was_seen_or_set_is_the_end(database_url: str, looked: str, ttl: int | None) -> None:
    async with opened(database_url) as log, connected(database_url) as other:
        await stream(log, other, looked=looked, ttl=ttl)
        for _ in range(2):
            with pytest.raises(StreamNotFound):
                await log.reader.stat("a")
            await look(log)


async def test_one_break_after_the_other_takes_no_time_away(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as other:
        await stream(log, other, looked="10 min")
        await look(log)
        await other.execute(
            "UPDATE run_gateway.lease_looks SET at = at - interval '5 s', since = since - interval '6 s'"
        )
        await look(log)
        await log.reader.stat("a")


async def test_a_clock_that_is_set_back_lengthens_no_lease(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as other:
        store = Store(log.database, machine="m")
        await other.execute("SELECT run_gateway.create('runs/a', lease => 30)")
        await other.execute(FAR)
        await other.execute(LOOKED, "-10 min")
        await store.end_lost(10, again=False)
        assert 25 < await other.fetchval(LEFT) <= 30


async def test_subscriptions_go_back_with_the_clock(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as other:
        await other.execute(
            "INSERT INTO run_gateway.subscriptions"
            " (id, type, config_hash, lease_ttl, wake_id, lease_until, next_attempt_at)"
            " SELECT n::text, 'webhook', '', interval '30 s', 'w', now() + n * interval '1 min',"
            "        now() + n * interval '1 min' - interval '20 s' FROM unnest(ARRAY[5, 11]) AS n"
        )
        await other.execute(LOOKED, "-10 min")
        await look(log)
        rows = await other.fetch(
            "SELECT extract(epoch FROM lease_until - now()) AS lease,"
            " extract(epoch FROM next_attempt_at - now()) AS attempt FROM run_gateway.subscriptions ORDER BY number"
        )
        expected = [(300, 280), (60, 40)]
        for row, (lease, attempt) in zip(rows, expected, strict=True):
            assert abs(row["lease"] - lease) <= 3 and abs(row["attempt"] - attempt) <= 3
