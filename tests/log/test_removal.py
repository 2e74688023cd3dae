"""Removing streams: in one order with everybody else, round what is held, however long a chain of forks is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import asyncpg
import pytest

from gateway.log.housekeeping import Housekeeping, Stride
from gateway.protocol import errors
from gateway.protocol.create import CreateRequest, Fork
from tests.log.rig import JSON, Log, connected, holding, opened, until_blocked

EXPIRE = """
    WITH ended AS (UPDATE run_gateway.streams SET expires_at = clock_timestamp() WHERE path = ANY ($1) RETURNING id)
    INSERT INTO run_gateway.expiries (stream, check_at) SELECT id, clock_timestamp() FROM ended
    ON CONFLICT (stream) DO UPDATE SET check_at = excluded.check_at
"""
PATHS = "SELECT coalesce(array_agg(path ORDER BY path), '{}') FROM run_gateway.streams WHERE path IS NOT NULL"
CHAIN = 1_500


async def chain(connection: asyncpg.Connection[asyncpg.Record], length: int) -> None:
    """A stream, its fork, that one's fork and so on; each is kept for the next alone, and the last has expired."""
    await connection.execute(
        """
        INSERT INTO run_gateway.streams (path, content_type, media_type, gone, forks, expires_at)
        SELECT 'c/' || i, 'text/plain', 'text/plain', i < $1, (i < $1)::integer,
               CASE WHEN i = $1 THEN clock_timestamp() END
          FROM generate_series(1, $1) i
        """,
        length,
    )
    await connection.execute("UPDATE run_gateway.streams SET fork_source = id - 1 WHERE path <> 'c/1'")
    await connection.execute(EXPIRE, [f"c/{length}"])


async def purged(log: Log) -> None:
    while await log.housekeeping.purge():
        pass


async def test_the_longest_chain_of_forks_is_removed(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        await chain(database, CHAIN)
        await log.create("other", ttl=1)
        await database.execute(EXPIRE, ["other"])
        await purged(log)
        assert await database.fetchval("SELECT count(*) FROM run_gateway.streams") == 0


async def test_what_is_held_is_left_out_and_nothing_else(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        for path in ("free", "held", "runs/held", "runs/held/control", "source", "runs/free"):
            await log.create(path, ttl=9)
        await log.create("fork", fork=Fork("source", None, 0), ttl=9)
        await database.execute(EXPIRE, ["free", "held", "runs/held", "fork", "runs/free"])
        async with holding(database_url, "held", "runs/held/control", "source"):
            await purged(log)
            left = ["fork", "held", "runs/held", "runs/held/control", "source"]
            assert await database.fetchval(PATHS) == left
            assert await database.fetchval("SELECT array_agg(id) FROM run_gateway.runs") == ["held"]
        await database.execute("UPDATE run_gateway.expiries SET check_at = clock_timestamp() WHERE stream <> 0")
        await database.execute(
            "DELETE FROM run_gateway.expiries e USING run_gateway.streams s"
            " WHERE s.id = e.stream AND s.expires_at > clock_timestamp()"
        )
        await purged(log)
        assert await database.fetchval(PATHS) == ["source"]
        assert await database.fetchval("SELECT forks FROM run_gateway.streams WHERE path = 'source'") == 0


SLOW = """
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.06); RETURN NULL; END $$;
    CREATE TRIGGER slow AFTER UPDATE ON run_gateway.{} FOR EACH STATEMENT EXECUTE FUNCTION slow();
"""


async def test_a_slow_database_gets_on_with_what_expires(database_url: str) -> None:
    """Each step ends with the first few, and is followed by another until nothing is due."""
    async with opened(database_url) as log, connected(database_url) as database:
        await database.execute("""
            INSERT INTO run_gateway.streams (path, content_type, media_type, ttl, expires_at)
            SELECT i::text, 'text/plain', 'text/plain', 60,
                   clock_timestamp() + CASE WHEN i > 1100 THEN '-1 s' ELSE '1 minute' END::interval
              FROM generate_series(1, 1103) i;
            INSERT INTO run_gateway.expiries (stream, check_at)
            SELECT id, clock_timestamp() - interval '1 minute' + id * interval '1 ms' FROM run_gateway.streams;
        """)
        await database.execute(SLOW.format("expiries"))
        steps = 0
        while await log.housekeeping.purge():
            steps += 1
        assert steps >= 3 + 3, "five hundred are looked at in a step, and one is taken away"
        assert await database.fetchval("SELECT count(*) FROM run_gateway.expiries WHERE check_at < now()") == 0
        assert await database.fetchval("SELECT count(*) FROM run_gateway.streams") == 1_100


async def test_a_slow_database_gets_on_with_recordings(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        for path in ("a", "b", "c"):
            await log.create(path, closed=True)
        await database.execute(
            "INSERT INTO run_gateway.recordings (stream, relay) SELECT id, 'r' FROM run_gateway.streams"
        )
        streams = await database.fetchval("SELECT array_agg(id ORDER BY id) FROM run_gateway.streams")
        await database.execute(SLOW.format("streams"))
        after, seen = 0, []
        while after := await database.fetchval("SELECT run_gateway.retire_next_recordings($1, '0 s', 50)", after):
            seen.append(after)
        assert seen == streams, "one in each step"
        assert await database.fetchval(PATHS) == []


async def test_closed_streams_that_are_held_keep_no_others(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        for path in ("a", "b", "c"):
            await log.create(path, closed=True)
        async with holding(database_url, "a"):
            assert await database.fetchval("SELECT run_gateway.retire($1, 50)", timedelta(0)) == 2
            assert await database.fetchval(PATHS) == ["a"]
        assert await database.fetchval("SELECT run_gateway.retire($1, 50)", timedelta(0)) == 1


# Of each run, its control stream and so on, which somebody holds a part of.
PARTS = {
    "runs/itself": "SELECT FROM run_gateway.streams WHERE path = 'runs/itself' FOR NO KEY UPDATE",
    "runs/control": "SELECT FROM run_gateway.streams WHERE path = 'runs/control/control' FOR NO KEY UPDATE",
    "runs/record": "SELECT FROM run_gateway.runs WHERE id = 'record' FOR NO KEY UPDATE",
    "runs/lease": "SELECT FROM run_gateway.leases FOR NO KEY UPDATE",
}


async def test_a_run_of_which_somebody_holds_a_part_stays_whole(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        for path in (*PARTS, "runs/free", "no run"):
            await log.create(path, closed=True)
            if path != "no run":
                await log.create(f"{path}/control", ttl=9)
        await database.execute("""
            INSERT INTO run_gateway.leases (stream, check_at)
            SELECT id, now() FROM run_gateway.streams WHERE path = 'runs/lease'""")
        whole = [path for run in sorted(PARTS) for path in (run, f"{run}/control")]
        async with connected(database_url) as rival, rival.transaction():
            for held in PARTS.values():
                await rival.execute(held)
            assert await database.fetchval("SELECT run_gateway.retire($1, 50)", timedelta(0)) == 2
            assert await database.fetchval(PATHS) == whole
            assert await database.fetchval("SELECT count(*) FROM run_gateway.runs") == len(PARTS)
        assert await database.fetchval("SELECT run_gateway.retire($1, 50)", timedelta(0)) == len(PARTS)
        assert await database.fetchval(PATHS) == []
        for table in ("runs", "leases", "expiries"):
            assert await database.fetchval(f"SELECT count(*) FROM run_gateway.{table}") == 0, table


LEFT = """
    SELECT json_build_array(
        (SELECT json_agg(s ORDER BY s.id) FROM run_gateway.streams s), (SELECT json_agg(r) FROM run_gateway.runs r),
        (SELECT json_agg(e) FROM run_gateway.expiries e), (SELECT json_agg(l) FROM run_gateway.leases l),
        (SELECT json_agg((d.tenant, d.id, d.status) ORDER BY d.stream) FROM run_gateway.removed_runs d))::text
"""


async def test_streams_go_together_as_they_go_one_by_one(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        for path in ("runs/a", "t\x1fruns/b", "source", "runs/source", "plain", "runs/open"):
            await log.create(path, closed=path != "runs/open", ttl=None if path == "plain" else 9)
            await log.create(f"{path}/control")
        await log.create("fork", fork=Fork("source", None, 0), closed=True)
        await log.create("forked", fork=Fork("runs/source", None, 0))
        await log.create("of control", fork=Fork("runs/a/control", None, 0))
        await database.execute(
            "INSERT INTO run_gateway.leases SELECT stream, now() FROM run_gateway.runs WHERE id <> 'b'"
        )
        left = []
        for _ in range(2):
            transaction = database.transaction()
            await transaction.start()
            while await database.fetchval("SELECT run_gateway.retire($1, 50)", timedelta(0)):
                pass
            left.append(await database.fetchval(LEFT))
            await transaction.rollback()
            await database.execute("""
                CREATE OR REPLACE FUNCTION run_gateway.take_all_away(doomed bigint[]) RETURNS bigint
                LANGUAGE sql RETURN 0""")
        together, one_by_one = left
        assert together == one_by_one


ENTRIES = "SELECT pg_stat_get_xact_tuples_returned('run_gateway.{}'::regclass)"


async def test_what_has_gone_is_not_looked_at_again(database_url: str) -> None:
    """Its entries stay in the indexes while a snapshot is older, as that of a dump is, and there may be millions."""
    async with opened(database_url) as log, connected(database_url) as database:
        await database.execute("""
            INSERT INTO run_gateway.streams (path, content_type, media_type, closed, closed_at)
            SELECT i::text, 'text/plain', 'text/plain', true, now() - interval '1 day' + i * interval '1 s'
              FROM generate_series(1, 80) i""")

        async def looked_at(index: str, step: str) -> int:
            transaction = database.transaction()
            await transaction.start()
            assert await database.fetchval(f"SELECT removed FROM run_gateway.{step}"), step
            entries: int = await database.fetchval(ENTRIES.format(index))
            await transaction.rollback()
            return entries

        async with connected(database_url) as dump, dump.transaction(isolation="repeatable_read"):
            await dump.execute("SELECT FROM run_gateway.server")
            for _ in range(6):
                assert await log.housekeeping.retire(0, 10) == 10
            until = log.housekeeping._closed
            assert until is not None
            assert await looked_at("streams_closed", f"retire_next('{until}', '0 s', 10)") <= 15
            assert await looked_at("streams_closed", "retire_next('-infinity', '0 s', 10)") > 60, "it can be told"
            for _ in range(5):
                assert await log.housekeeping.purge(10) == 10
            assert await looked_at("streams_removed", f"purge_next({log.housekeeping._removed}, 10)") <= 15
            assert await looked_at("streams_removed", "purge_next(0, 10)") > 50, "it can be told"
        assert [await log.housekeeping.retire(0, 10) for _ in range(3)] == [10, 10, 0]
        while await log.housekeeping.purge():
            pass
        assert await database.fetchval("SELECT count(*) FROM run_gateway.streams") == 0


async def test_only_what_is_told_waits_for_the_disk(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        await log.create("a", closed=True, body=b"[1,2]")
        await log.create("ended", ttl=9)
        settings = []
        for step in ("retire_next('-infinity', '0 s', 10)", "purge_next(0, 10)", "purge_next(0, 10)"):
            async with database.transaction():
                assert await database.fetchval(f"SELECT removed FROM run_gateway.{step}"), step
                settings.append(await database.fetchval("SELECT current_setting('synchronous_commit')"))
            if len(settings) == 2:
                await database.execute(EXPIRE, ["ended"])
        assert settings == ["on", "off", "on"]
        assert await database.fetchval("SELECT current_setting('synchronous_commit')") == "on"


async def test_each_round_looks_from_the_beginning(database_url: str) -> None:
    """For what was held as it was passed, or closed before others and committed after them."""
    async with opened(database_url) as log, connected(database_url) as database:
        for path in ("a", "b", "c"):
            await log.create(path, closed=True)
        await log.create("d")
        assert await log.housekeeping.retire(0, 2) == 2
        assert await log.housekeeping.purge(1) == 1
        await log.append("d", close=True)
        await database.execute("UPDATE run_gateway.streams SET closed_at = closed_at - interval '1 h' WHERE path = 'd'")
        assert [await log.housekeeping.retire(0, 1) for _ in range(3)] == [1, 1, 0]
        while await log.housekeeping.purge(1):
            pass
        assert await database.fetchval("SELECT count(*) FROM run_gateway.streams") == 0


async def test_streams_that_stand_alone_go_together(database_url: str) -> None:
    """None of them by a subtransaction of its own, of which a step may have so many only."""
    async with opened(database_url) as log, connected(database_url) as database:
        for number in range(70):
            await log.create(f"runs/{number}", closed=True)
        await database.execute("DROP FUNCTION run_gateway.try_away")
        assert await database.fetchval("SELECT run_gateway.retire($1, 100)", timedelta(0)) == 70


def test_a_step_is_shorter_after_one_that_took_long() -> None:
    stride = Stride(100)
    lengths = []
    for seconds in (0.06, 0.06, 0.04, 0.01, 0.01, *[1.0] * 8):
        stride.note(seconds)
        lengths.append(stride.length)
    assert lengths == [50, 25, 50, 100, 100, 50, 25, 12, 6, 3, 1, 1, 1]


async def test_housekeeping_does_less_in_a_step_when_it_is_slow(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        for number in range(6):
            await log.create(str(number), closed=True)
        await database.execute(SLOW.format("streams"))
        house = Housekeeping(log.database, machine="m1", interval=1, retention=0)
        house._ended = Stride(4)
        steps = []
        while removed := await house.retire(0):
            steps.append(removed)
        assert steps == [4, 2]


async def test_a_stream_that_cannot_be_removed_keeps_no_others(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        for path in ("bad", "good", "closed-bad", "closed-good"):
            await log.create(path, ttl=None if "closed" in path else 9, closed="closed" in path)
        await database.execute("""
            CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a fault'; END $$;
            CREATE TRIGGER fault BEFORE UPDATE ON run_gateway.streams FOR EACH ROW
            WHEN (OLD.path ~ 'bad' AND NEW.path IS NULL) EXECUTE FUNCTION fault();
        """)
        await database.execute(EXPIRE, ["bad", "good"])
        await purged(log)
        assert await database.fetchval(PATHS) == ["bad", "closed-bad", "closed-good"]
        assert await database.fetchval("SELECT run_gateway.retire($1, 50)", timedelta(0)) == 1
        assert await database.fetchval(PATHS) == ["bad", "closed-bad"]


async def test_a_step_that_fails_keeps_no_other_from_its_turn(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        house = Housekeeping(log.database, machine="m1", interval=1, retention=3600)

        async def fails(*_: object) -> int:
            raise errors.Unavailable

        monkeypatch.setattr(house, "retire", fails)
        await log.create("ended", ttl=9)
        await database.execute(EXPIRE, ["ended"])
        await log.create("packed", closed=True, body=b"[1,2]")
        with pytest.raises(errors.Unavailable):
            await house.round()
        assert await database.fetchval(PATHS) == ["packed"]
        assert house.packed == 1
        monkeypatch.setattr(house, "purge", fails)
        await log.create("packed too", closed=True, body=b"[1,2]")
        with pytest.raises(errors.Unavailable):
            await house.round()
        assert house.packed == 2


async def test_an_ended_stream_whose_row_is_held_is_packed(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as database:
        await log.create("s", closed=True, body=b"[1,2]")
        async with connected(database_url) as idle, idle.transaction():
            await idle.execute("SELECT FROM run_gateway.streams FOR NO KEY UPDATE")
            await log.housekeeping.pack()
            assert await database.fetchval("SELECT count(*) FROM run_gateway.pages") == 1
            assert not await database.fetchval("SELECT packed FROM run_gateway.streams")
        await log.housekeeping.pack()
        await log.housekeeping.pack()
        assert await database.fetchval("SELECT packed FROM run_gateway.streams")


@pytest.mark.parametrize("seed", range(2))
async def test_nobody_deadlocks_over_a_fork(database_url: str, seed: int) -> None:
    """A source and its expired fork: deleted, made anew, swept and forked by many at once, each a moment after another.

    Every lock that is waited for is looked at, as if it had lasted a second: a circle is seen however short it is.
    """
    rng = random.Random(seed)
    async with connected(database_url) as database:
        await database.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 3', current_database()); END $$"
        )
    async with opened(database_url, pool=8) as log, connected(database_url) as database:
        await log.create("b")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: log.lifecycle.delete("c"),
            lambda: log.create("c", fork=Fork("b", None, 0), ttl=9),
            lambda: log.create("c", fork=Fork("a", None, 0), ttl=9),
            log.housekeeping.purge,
            lambda: log.create("a", fork=Fork("b", None, 0), ttl=9),
            lambda: log.lifecycle.delete("a"),
        ]

        async def late(call: Callable[[], Awaitable[object]], by: float) -> object:
            await asyncio.sleep(by)
            return await call()

        for _ in range(25):
            for path, source in (("a", "b"), ("c", "b")):
                request = CreateRequest(path, JSON, 9, None, None, False, Fork(source, None, 0), b"")
                with suppress(errors.ProtocolError):
                    await log.lifecycle.create(request)
            await database.execute(EXPIRE, ["a", "c"])
            outcomes = await asyncio.gather(
                *(late(call, rng.random() * 0.01) for call in calls * 2), return_exceptions=True
            )
            for outcome in outcomes:
                cause = outcome.__cause__ if isinstance(outcome, errors.Unavailable) else None
                assert cause is None or isinstance(cause, asyncpg.LockNotAvailableError), repr(cause)
        assert not await deadlocks(database)
        forks = await database.fetch(
            "SELECT s.forks, (SELECT count(*) FROM run_gateway.streams f"
            " WHERE f.fork_source = s.id AND f.path IS NOT NULL) AS real"
            " FROM run_gateway.streams s WHERE s.path IS NOT NULL"
        )
        assert [row["forks"] for row in forks] == [row["real"] for row in forks]


async def deadlocks(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    count: int = await connection.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return count


async def test_a_source_that_comes_meanwhile_is_not_waited_for(database_url: str) -> None:
    """It comes late in the order of locks: whoever holds it may wait for what is locked already."""
    async with opened(database_url) as log, connected(database_url) as look:
        await log.create("b")
        await log.create("c", fork=Fork("b", None, 0), ttl=9)
        await look.execute(EXPIRE, ["c"])
        async with connected(database_url) as rival, rival.transaction():
            async with holding(database_url, "c"):
                making = asyncio.create_task(log.create("c", fork=Fork("a", None, 0)))
                await until_blocked(look)  # it has locked b, and waits for c
                await log.create("a")
                await rival.execute("SELECT FROM run_gateway.streams WHERE path = 'a' FOR UPDATE")
                waiting = asyncio.create_task(
                    rival.execute("SELECT FROM run_gateway.streams WHERE path = 'b' FOR UPDATE")
                )
                await until_blocked(look, 2)
            with pytest.raises(errors.StreamHeld):
                await making
            await waiting
        assert (await log.create("c", fork=Fork("a", None, 0))).new


async def test_what_was_removed_meanwhile_is_not_waited_for(database_url: str) -> None:
    """It has no path any more, and so no place in the order of locks."""
    async with opened(database_url) as log, connected(database_url) as look:
        for path in ("a", "b"):
            await log.create(path)
        old = await look.fetchval("SELECT id FROM run_gateway.streams WHERE path = 'a'")
        await log.lifecycle.delete("a")
        other = await look.fetchval("SELECT id FROM run_gateway.streams WHERE path = 'b'")
        async with connected(database_url) as rival, rival.transaction():
            await rival.execute("SELECT FROM run_gateway.streams WHERE id = $1 FOR UPDATE", old)
            await look.execute("SET lock_timeout = '1s'")
            await look.execute("SELECT run_gateway.lock_concerned($1, $2)", other, old)


async def test_forks_are_limited_in_number_and_depth(database_url: str) -> None:
    async with opened(database_url) as log:
        log.lifecycle._max_forks, log.lifecycle._max_fork_depth = 2, 3
        await log.create("root", body=b"[1]")
        await log.create("1", fork=Fork("root", None, 0))
        await log.create("2", fork=Fork("1", None, 0))
        await log.create("3", fork=Fork("2", None, 0))
        with pytest.raises(errors.ForkTooDeep):
            await log.create("4", fork=Fork("3", None, 0))
        await log.create("other", fork=Fork("root", None, 0))
        with pytest.raises(errors.TooManyForks):
            await log.create("another", fork=Fork("root", None, 0))
        assert not (await log.create("1", fork=Fork("root", None, 0))).new, "what exists is confirmed"
        await log.lifecycle.delete("other")
        assert (await log.create("another", fork=Fork("root", None, 0))).new


async def test_what_a_fork_copies_is_told(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s", "text/plain", body=b"abcdef")
        assert (await log.create("whole", None, fork=Fork("s", 0, 6))).copied == 0
        assert (await log.create("part", None, fork=Fork("s", 0, 4))).copied == 4
