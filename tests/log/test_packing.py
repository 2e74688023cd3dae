"""Packing over a real Postgres: no reader can tell, wherever the seam between pages and rows is at the moment."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import asyncpg
import pytest

from gateway.log.housekeeping import MARGIN, PAGE_EVENTS, Housekeeping, KeptElsewhere
from gateway.log.migrations import migrate
from gateway.log.reader import Reader
from gateway.protocol import errors
from gateway.protocol.append import Producer
from gateway.protocol.batch import Batch
from gateway.protocol.create import Fork
from tests.databases import OwnPostgres
from tests.log.rig import JSON, Log, connected, opened, until_blocked


class Packer:
    """Packs a step at a time, with pages as small as a test likes."""

    def __init__(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        page_bytes: int = 40,
        page_events: int = 4,
        margin: int = 2,
    ) -> None:
        self._connection = connection
        self._sizes = (page_bytes, page_events, margin)

    async def step(self, path: str) -> bool:
        done = await self._connection.fetchval(
            "SELECT run_gateway.pack_page(id, $2, $3, $4) FROM run_gateway.streams WHERE path = $1", path, *self._sizes
        )
        return bool(done)

    async def all(self, path: str) -> None:
        while await self.step(path):
            pass

    async def rows(self, path: str) -> tuple[int, int]:
        """How many pages and rows a stream has of its own."""
        row = await self._connection.fetchrow(
            "SELECT (SELECT count(*) FROM run_gateway.pages p WHERE p.stream = s.id),"
            " (SELECT count(*) FROM run_gateway.events e WHERE e.stream = s.id)"
            " FROM run_gateway.streams s WHERE path = $1",
            path,
        )
        assert row is not None
        return row[0], row[1]


@asynccontextmanager
async def packing(url: str, *sizes: int) -> AsyncIterator[tuple[Log, Packer]]:
    async with opened(url, pack=False) as log, connected(url) as connection:
        yield log, Packer(connection, *sizes)


def numbers(*range_: int) -> list[bytes]:
    return [b"%d" % n for n in range(*range_)]


# What readers see


SIZES = ((1, None), (30, None), (1 << 20, None), (60, 0), (1 << 20, 50), (1 << 20, 10_000))
Seen = tuple[Batch, Sequence[int] | None]


async def see(log: Log, path: str, position: int, page_bytes: int, recent: int | None) -> Seen:
    reader = Reader(log.database, page_bytes=page_bytes)
    if recent is None:
        return (await reader.read(path, position, touch=False)).batch, None
    batch = (await reader.live(path, position, recent=recent)).batch
    return replace(batch), batch.lengths


async def test_the_last_events_of_an_open_stream_stay_rows(database_url: str) -> None:
    async with packing(database_url) as (log, packer):
        await log.create("s")
        for tail, kept in ((5, (0, 5)), (6, (1, 2)), (9, (1, 5)), (10, (2, 2))):  # pages of 4, and a margin of 2
            while (await log.append("s", b"1")).tail < tail:
                pass
            await packer.all("s")
            assert await packer.rows("s") == kept
        await log.append("s", close=True)
        await packer.all("s")
        assert await packer.rows("s") == (3, 0)


@pytest.mark.parametrize("type", [JSON, "text/plain", "application/octet-stream"])
async def test_every_read_is_the_same_around_all_steps_of_packing(database_url: str, type: str) -> None:
    """From every position, with several page sizes, with forks in the middle of pages, of open and closed streams."""
    chance = random.Random(type)
    async with packing(database_url) as (log, packer):
        tails: dict[str, int] = {}
        for n in range(9):
            path = f"s{n}"
            if n < 3:
                await log.create(path, type)
            else:
                source = "s0" if n < 5 else chance.choice(list(tails))
                fork = Fork(source, chance.randint(1, tails[source] - 1), chance.choice([0, 1]))
                await log.create(path, None, fork=fork)
            for _ in range(chance.randint(2, 6)):
                some = [b"%d" % chance.randrange(10 ** chance.choice([1, 3, 30])) for _ in range(chance.randint(1, 5))]
                tails[path] = (await log.append(path, *some, type=type)).tail
            if n % 2:
                await log.append(path, close=True)
        await log.lifecycle.delete("s0")  # kept for its forks, whose lineage leads into its pages
        del tails["s0"]

        reads = [
            (path, position, page_bytes, recent)
            for path, tail in tails.items()
            for position in range(tail + 1)
            for page_bytes, recent in SIZES
        ]
        reads = chance.sample(reads, 400)
        before = {read: await see(log, *read) for read in reads}
        assert {batch.closed for batch, _ in before.values() if batch.up_to_date} == {True, False}

        unpacked = ["s0", *tails]
        steps = 0
        while unpacked:
            path = chance.choice(unpacked)
            if await packer.step(path):
                steps += 1
            else:
                unpacked.remove(path)
            for read in chance.sample(reads, 12):
                assert await see(log, *read) == before[read], (read, steps)
        assert steps > 15
        assert (await packer.rows("s0"))[1] == 0, "nobody appends to a source that is gone: all of it is packed"
        for read in reads:
            assert await see(log, *read) == before[read], read


async def test_who_follows_a_text_is_told_the_bytes_before(database_url: str) -> None:
    """From every position, before, between and after all steps, in forks too."""
    events = [b"a", b"b", b"cd", b"efgh", *[b"%d" % n for n in range(90, 110)], b"x"]
    async with packing(database_url, 12, 4, 2) as (log, packer):
        paths = ("source", "fork", "fork of that")
        await log.create("source", "text/plain; charset=utf-8")
        await log.append("source", *events, type="text/plain")
        await log.create("fork", None, fork=Fork("source", 3, 2))
        await log.append("fork", b"1", b"2", b"345", type="text/plain")
        await log.create("fork of that", None, fork=Fork("fork", 5, 0))
        await log.append("fork of that", *events, type="text/plain")
        reader = Reader(log.database, page_bytes=1 << 20)
        texts = {path: (await reader.live(path, 0)).batch for path in paths}
        assert texts["fork"].body == b"abcdef12345"
        for path in (*paths, *paths, *paths):
            batch = texts[path]
            for recent in (0, 9):
                for position in range(batch.end + 1):
                    page = (await reader.live(path, position, recent=recent)).batch
                    assert page.before == batch.body[: len(batch.body) - len(page.body)][-3:]
            assert (await reader.read(path, batch.end)).batch.before == b"", "who does not follow needs none"
            await packer.all(path)
        assert (await packer.rows("source"))[0] > 3


async def test_a_reader_in_the_middle_goes_on_through_packing(database_url: str) -> None:
    async with packing(database_url, 200, 50, 20) as (log, packer):
        await log.create("s")
        await log.append("s", *numbers(1, 2001))
        reader = Reader(log.database, page_bytes=90)
        position, given = 0, []
        while position < 2000:
            batch = (await reader.read("s", position)).batch
            given.append(batch.body)
            position = batch.end
            await packer.step("s")
        assert b",".join(given) == b",".join(numbers(1, 2001))
        pages, rows = await packer.rows("s")
        assert pages > 20
        assert 20 <= rows <= 70, "what is close to the tail of an open stream stays"


async def test_readers_writers_and_packing_lose_and_repeat_nothing(database_url: str) -> None:
    total = 3000
    async with packing(database_url, 300, 30, 10) as (log, packer), opened(database_url, page_bytes=150) as other:
        await log.create("s")
        writing = True

        async def write() -> None:
            nonlocal writing
            for n in range(0, total, 20):
                await log.append("s", *numbers(n + 1, n + 21), close=n + 20 == total)
            writing = False

        async def pack() -> int:
            steps = 0
            while writing or await packer.step("s"):
                steps += await packer.step("s")
            return steps

        async def read(again: int) -> None:
            for _ in range(again):
                position = 0
                while True:
                    batch = (await other.reader.read("s", position)).batch
                    assert batch.start == position
                    assert batch.body == b",".join(numbers(position + 1, batch.end + 1))
                    position = batch.end
                    if batch.closed:
                        assert position == total
                        break

        _, steps, *_ = await asyncio.gather(write(), pack(), read(2), read(3), read(3))
        assert steps > 20
        assert (await packer.rows("s"))[1] == 0


async def test_events_packed_while_they_are_read_are_read_unchanged(database_url: str) -> None:
    """A read that found no page, and waits for the rows: they have moved by then, and its snapshot still has them."""
    async with opened(database_url) as log, connected(database_url) as connection, connected(database_url) as look:
        await log.create("s")
        await log.append("s", *numbers(1, 11), close=True)
        async with connection.transaction():
            await connection.execute("LOCK TABLE run_gateway.events IN ACCESS EXCLUSIVE MODE")
            assert await Packer(connection, 1000, 100, 0).step("s")
            reading = asyncio.create_task(log.reader.read("s", 3))
            await until_blocked(look)
        expected = Batch(3, 10, b",".join(numbers(4, 11)), up_to_date=True, closed=True)
        assert (await reading).batch == expected == (await log.reader.read("s", 3)).batch


async def test_a_stream_half_purged_while_it_is_read_is_read_whole(database_url: str) -> None:
    async with (
        packing(database_url, 10, 5, 0) as (log, packer),
        connected(database_url) as connection,
        connected(database_url) as look,
    ):
        await log.create("s")
        await log.append("s", *numbers(100, 120), close=True)
        for _ in range(2):
            await packer.step("s")
        async with connection.transaction():
            await connection.execute("LOCK TABLE run_gateway.events IN ACCESS EXCLUSIVE MODE")
            await connection.execute("SELECT run_gateway.delete_stream('m1', 's')")
            while await connection.fetchval("SELECT run_gateway.purge(2)"):
                pass
            reading = asyncio.create_task(log.reader.read("s", 0))
            await until_blocked(look)
        assert (await reading).batch.body == b",".join(numbers(100, 120)), "it was there when the read began"
        with pytest.raises(errors.StreamNotFound):
            await log.reader.read("s", 0)


# How it is packed


async def test_appends_and_packing_do_not_wait_for_each_other(database_url: str) -> None:
    async with packing(database_url) as (log, packer), connected(database_url) as connection:
        await log.create("s")
        await log.append("s", *numbers(20))
        async with asyncio.timeout(60):
            async with connection.transaction():
                assert await Packer(connection).step("s")
                assert (await log.append("s", b"20", producer=Producer("p", 0, 0))).tail == 21
                assert await log.content("s") == b",".join(numbers(21))
            assert await log.content("s") == b",".join(numbers(21))
            async with connection.transaction():
                await connection.execute("SELECT run_gateway.delete_stream('m1', 's')")
                assert not await packer.step("s"), "it is being deleted: another time, if ever"
            async with connection.transaction():
                await log.create("s")
                await log.append("s", *numbers(20))
                await connection.execute("SELECT 1 FROM run_gateway.streams WHERE path = 's' FOR NO KEY UPDATE")
                assert await packer.step("s"), "an append under way is in nobody's way"


async def test_a_page_is_tens_of_kilobytes_and_smaller_than_its_rows(database_url: str) -> None:
    event = b'{"type":"text_delta","runId":"run_01M83592K3KQH18JXMZ31JKCTT","text":"%d"}'
    async with opened(database_url, pack=False) as log, connected(database_url) as look:
        await log.create("s")
        await log.append("s", *[event % n for n in range(5000)], close=True)
        await log.create("small")
        await log.append("small", *numbers(2500))
        rows = await look.fetchval("SELECT sum(pg_column_size(e) + 40) FROM run_gateway.events e WHERE seq <= 5000")
        await log.housekeeping.round()
        sizes = await look.fetch(
            "SELECT octet_length(body), cardinality(lengths), path FROM run_gateway.pages p"
            " JOIN run_gateway.streams s ON s.id = p.stream ORDER BY p.stream, p.last"
        )
        assert [row["path"] for row in sizes][-3:] == ["s", "small", "small"]
        assert all(64 << 10 <= row["octet_length"] < 66 << 10 for row in sizes[:-3])
        assert [row["cardinality"] for row in sizes[-2:]] == [PAGE_EVENTS] * 2, "of small events: as many as that"
        packed = await look.fetchval("SELECT sum(pg_column_size(p)) FROM run_gateway.pages p")
        assert packed * 5 < rows
        assert await look.fetchval("SELECT count(*) FROM run_gateway.events") == 2500 - 2 * PAGE_EVENTS >= MARGIN


async def test_what_is_packed_is_looked_at_no_more(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        for n in range(3):
            await log.create(f"s{n}", body=b"[1,2]", closed=n > 0)
        await log.create("empty", closed=True)
        await log.housekeeping.round()
        assert log.housekeeping.packed == 2
        left = await look.fetch("SELECT path FROM run_gateway.streams WHERE NOT packed")
        assert [row["path"] for row in left] == ["s0"]
        assert await look.fetchval("SELECT ids FROM run_gateway.packable_v2(0, 100, 10, 1000)") is None


async def test_it_can_be_turned_off_and_what_is_packed_stays_readable(database_url: str) -> None:
    async with packing(database_url) as (log, packer):
        for path in ("s", "packed"):
            await log.create(path, body=b"[1,2,3]", closed=True)
        await packer.all("packed")
        await Housekeeping(log.database, machine="m1", interval=1, pack=False).round()
        assert await packer.rows("s") == (0, 3)
        assert await log.content("packed") == b"1,2,3"


async def test_a_stream_that_cannot_be_packed_keeps_no_other_waiting(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as connection:
        for n in range(3):
            await log.create(f"s{n}", body=b"[1,2]", closed=True)
        broken = (await log.reader.stat("s1")).id
        await connection.execute(f"ALTER TABLE run_gateway.pages ADD CONSTRAINT broken CHECK (stream <> {broken})")
        with pytest.raises(errors.Unavailable):
            await log.housekeeping.round()
        await log.housekeeping.round()
        packed = await connection.fetch("SELECT path FROM run_gateway.streams WHERE packed ORDER BY path")
        assert [row["path"] for row in packed] == ["s0", "s2"]
        assert await log.content("s1") == b"1,2"


async def test_one_machine_at_a_time_keeps_house(database_url: str) -> None:
    async with opened(database_url) as one, opened(database_url, machine="m2") as other:
        await one.housekeeping.round()
        for _ in range(3):
            with pytest.raises(KeptElsewhere):
                await other.housekeeping.round()
        async with connected(database_url) as connection:
            await connection.execute("UPDATE run_gateway.housekeeping SET until = now()")  # `one` has vanished
            await other.housekeeping.round()
            with pytest.raises(KeptElsewhere):
                await one.housekeeping.round()
            async with connection.transaction():  # a step that takes longer than it has the right to
                await connection.execute("UPDATE run_gateway.housekeeping SET until = now()")
                with pytest.raises(KeptElsewhere):
                    await one.housekeeping.round()
            # `other` has vanished, and the clock was set back by an hour.
            await connection.execute("UPDATE run_gateway.housekeeping SET until = now() + interval '1 h'")
            await one.housekeeping.round()


async def test_a_crash_of_postgres_at_any_step_loses_nothing(
    own_postgres: Callable[[], Awaitable[OwnPostgres]],
) -> None:
    """Packing does not wait for the disk: what is taken back by a crash is there as rows again."""
    server = await own_postgres()
    await migrate(server.url)
    for _ in range(3):
        async with packing(server.url, 100, 10, 0) as (log, packer):
            with suppress(errors.StreamExists):
                await log.create("s")
                await log.append("s", *numbers(200), close=True)
            for _ in range(3):
                assert await packer.step("s")
        await server.restart("immediate")
        async with opened(server.url) as log:
            assert await log.content("s") == b",".join(numbers(200))


# Removal


async def test_purging_takes_pages_too_in_small_steps(database_url: str) -> None:
    async with packing(database_url, 40, 4, 2) as (log, packer):
        await log.create("s")
        await log.append("s", *numbers(1000), producer=Producer("p", 0, 0))
        for _ in range(100):
            await packer.step("s")
        await log.lifecycle.delete("s")
        steps = []
        while rows := await log.housekeeping.purge(100):
            steps.append(rows)
        assert len(steps) > 12
        async with connected(database_url) as look:
            for table in ("streams", "events", "pages", "producers"):
                assert await look.fetchval(f"SELECT count(*) FROM run_gateway.{table}") == 0, table


async def test_every_way_of_closing_says_when(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        await log.create("created", body=b"[1]", closed=True)
        for path in ("alone", "with events", "open", *"abc"):
            await log.create(path)
        await log.append("alone", close=True)
        await log.append("with events", b"1", close=True)
        await log.append("open", b"1")
        await asyncio.gather(*(log.append(path, b"1", close=path != "c") for path in "abc"))
        await log.append("alone", close=True)
        states = await look.fetch("SELECT path, closed_at <= clock_timestamp() AS said FROM run_gateway.streams")
        assert {row["path"] for row in states if row["said"]} == {"created", "alone", "with events", "a", "b"}


async def closed_for(url: str, seconds: float, *paths: str) -> None:
    async with connected(url) as connection:
        await connection.execute(
            "UPDATE run_gateway.streams SET closed_at = closed_at - $2 * interval '1 second' WHERE path = ANY ($1)",
            paths,
            float(seconds),
        )


async def test_streams_closed_for_long_are_removed_in_small_batches(database_url: str) -> None:
    async with opened(database_url) as log:
        old = [f"old{n}" for n in range(25)]
        for path in [*old, "young"]:
            await log.create(path, body=b"[1,2]", closed=True)
        await log.create("open", body=b"[1,2]")
        await closed_for(database_url, 90, "open", *old)
        await closed_for(database_url, 30, "young")
        steps = []
        while removed := await log.housekeeping.retire(60, 10):
            steps.append(removed)
        assert steps == [10, 10, 5]
        assert set(await log.reader.positions([*old, "young", "open"])) == {"young", "open"}
        with pytest.raises(errors.StreamNotFound):
            await log.reader.read("old1", 1)
        while await log.housekeeping.purge():
            pass
        async with connected(database_url) as look:
            assert await look.fetchval("SELECT count(*) FROM run_gateway.events") == 4
        assert (await log.create("old1")).new, "its path is free"


async def test_a_removed_source_is_gone_and_its_forks_go_on(database_url: str) -> None:
    async with packing(database_url) as (log, packer):
        await log.create("source", body=b"[1,2,3,4,5,6,7]", closed=True)
        await log.create("fork", None, fork=Fork("source", 5, 0))
        await closed_for(database_url, 90, "source")
        assert await log.housekeeping.retire(60)
        with pytest.raises(errors.StreamGone):
            await log.reader.read("source", 0)
        await packer.all("source")
        await log.append("fork", b"60", close=True)
        await packer.all("fork")
        assert await log.content("fork", 2) == b"3,4,5,60"
        assert not await log.housekeeping.retire(60), "once is enough"
        await closed_for(database_url, 90, "fork")
        assert await log.housekeeping.retire(60)
        with pytest.raises(errors.StreamNotFound):
            await log.reader.read("source", 0)
