"""Transactions of applications, however long: what they commit is kept, and time counts from their commit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from gateway.protocol.errors import StreamHeld, StreamNotFound
from tests.log.rig import Log, connected, holding, opened

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

APPEND = "SELECT run_gateway.append($1, '1')"
DUE = "UPDATE run_gateway.expiries SET check_at = clock_timestamp() - interval '1 s'"
AGO = """
    UPDATE run_gateway.streams
       SET expires_at = expires_at - $1::text::interval, lease_until = lease_until - $1::text::interval
"""
ENDS = """
    SELECT expires_at, lease_until, extract(epoch FROM least(expires_at, lease_until) - clock_timestamp()) AS left
      FROM run_gateway.streams ORDER BY path
"""
LONG = 3600


async def soon(connection: Connection) -> None:
    """Has the stream's row name an end that comes in a moment: what is used until then lives for long."""
    await connection.execute("UPDATE run_gateway.streams SET expires_at = clock_timestamp() + interval '2 s'")


async def until_past(connection: Connection) -> None:
    """Waits until the end that the stream's row names has come."""
    async with asyncio.timeout(60):
        while not await connection.fetchval(  # noqa: ASYNC110  nobody tells when a time has come
            "SELECT expires_at < clock_timestamp() FROM run_gateway.streams"
        ):
            await asyncio.sleep(0.02)
    await connection.execute(DUE)


async def purged(log: Log) -> None:
    """All that is due: a step that takes long leaves some for the next."""
    while await log.housekeeping.purge():
        pass


async def test_a_stream_lives_while_a_commit_to_it_is_on_its_way(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as app, connected(database_url) as other:
        await log.create("s", ttl=LONG)
        await soon(other)
        async with app.transaction():
            await app.execute(APPEND, "s")
            await until_past(other)
            await purged(log)
            assert (await log.reader.stat("s")).tail == 0
            assert (await log.reader.read("s", 0)).batch.empty, "and nothing of it is shown before the commit"
            await app.execute(APPEND, "s")
        assert await log.content("s") == b"1,1"


async def test_a_stream_ends_where_the_transaction_rolls_back(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as app, connected(database_url) as other:
        await log.create("s", ttl=LONG)
        await soon(other)
        transaction = app.transaction()
        await transaction.start()
        await app.execute(APPEND, "s")
        await until_past(other)
        await transaction.rollback()
        with pytest.raises(StreamNotFound):
            await log.reader.read("s", 0)
        assert await log.housekeeping.purge() > 0


@pytest.mark.parametrize("how", ["read", "touch"])
async def test_readers_keep_a_stream_whose_row_is_held(database_url: str, how: str) -> None:
    async with opened(database_url) as log, connected(database_url) as other:
        await log.create("s", ttl=LONG)
        await soon(other)
        async with holding(database_url, "s"):
            await (log.reader.read("s", 0) if how == "read" else log.reader.touch(["s"]))
            await until_past(other)
            assert (await log.reader.stat("s")).tail == 0
            await purged(log)
        await purged(log)
        await log.append("s", b"1")
        assert await log.content("s") == b"1"


@pytest.mark.parametrize("long", [True, False])
async def test_time_counts_from_the_commit(database_url: str, long: bool) -> None:
    """Of a transaction that takes no time the calls are as good a sign of life, and are not written again."""
    async with opened(database_url) as log, connected(database_url) as app:
        await log.create("runs/old", ttl=LONG)
        await app.execute("UPDATE run_gateway.streams SET lease = $1", LONG)
        async with app.transaction():
            await app.execute(APPEND, "runs/old")
            await app.execute("SELECT run_gateway.create('runs/new', ttl => $1, lease => $2)", LONG, LONG)
            await app.execute(AGO, "1 min" if long else "-1 min")
            before = await app.fetch(ENDS)
        after = await app.fetch(ENDS)
        assert len(before) == 2
        if long:
            assert min(row["left"] for row in after) > LONG - 30
        else:
            assert [row["expires_at"] for row in after] == [row["expires_at"] for row in before]
        assert await app.fetchval("SELECT count(*) FROM run_gateway.under_way") == 0


async def test_an_expired_stream_is_not_there_for_an_older_transaction(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as app, connected(database_url) as other:
        await log.create("s", ttl=LONG)
        async with app.transaction():
            await app.fetchval("SELECT now()")
            await other.execute("UPDATE run_gateway.streams SET expires_at = clock_timestamp()")
            assert (
                await app.fetchval("SELECT count(*) FROM run_gateway.find_page('s', 0, NULL, 1, 0, 0, false, 0)") == 0
            )
            with pytest.raises(asyncpg.NoDataFoundError):
                await app.execute(APPEND, "s")


@pytest.mark.parametrize(
    "append",
    [
        "CALL run_gateway.append(NULL, 's', 'application/json', '{1}'::bytea[], '', NULL, NULL, NULL)",
        "SELECT run_gateway.append('s', '1')",
    ],
)
async def test_an_append_to_a_stream_with_a_ttl_touches_no_index(database_url: str, append: str) -> None:
    async with opened(database_url) as log, connected(database_url) as app:
        await log.create("s", ttl=LONG)
        for _ in range(50):
            await app.execute(append)
        await app.execute("SELECT pg_stat_force_next_flush()")
        row = await app.fetchrow(
            "SELECT n_tup_upd - n_tup_hot_upd AS others, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'streams'"
        )
        assert row is not None
        assert row["n_tup_upd"] >= 50
        assert row["others"] <= 1, "on a page that is full the row moves to another, once"


async def test_the_look_at_a_stream_that_was_used_moves_on(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as other:
        await log.create("s", ttl=LONG)
        await other.execute(DUE)
        await purged(log)
        assert await other.fetchval("SELECT check_at = expires_at FROM run_gateway.expiries, run_gateway.streams")


async def test_a_lease_that_is_shortened_as_it_is_looked_at_is_watched(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as app, connected(database_url) as look:
        await log.create("runs/1")
        shorten = "SELECT run_gateway.append_one('runs/1', NULL, false, NULL, NULL, NULL, NULL, NULL, $1)"
        await app.execute(shorten, LONG)
        await look.execute("UPDATE run_gateway.leases SET check_at = clock_timestamp()")
        async with app.transaction():
            await app.execute(shorten, 10)
            await look.execute("SELECT run_gateway.end_lost_runs('m', 500, true)")
        assert await look.fetchval("SELECT check_at < clock_timestamp() + interval '11 s' FROM run_gateway.leases")


@pytest.mark.parametrize("beside", ["streams WHERE path = 'runs/1/control'", "runs", "leases"])
async def test_what_a_closing_waits_for_is_told_to_be_held(database_url: str, beside: str) -> None:
    async with opened(database_url, timeout=1) as log, connected(database_url) as idle, idle.transaction():
        await log.create("runs/1")
        await log.create("runs/1/control")
        await log.create("other")
        async with connected(database_url) as app:
            await app.execute("INSERT INTO run_gateway.leases SELECT stream, 'infinity' FROM run_gateway.runs")
            await app.execute("UPDATE run_gateway.streams SET lease = 60 WHERE path = 'runs/1'")
        await idle.execute(f"SELECT FROM run_gateway.{beside} FOR UPDATE")
        closing = asyncio.create_task(log.append("runs/1", b"1", close=True))
        await log.append("other", b"1")
        with pytest.raises(StreamHeld):
            await closing
        await log.append("runs/1", b"2")
