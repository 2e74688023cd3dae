"""A stream that has fallen silent is packed whole, whatever its length, and goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest

from gateway.log.housekeeping import PAGE_BYTES, PAGE_EVENTS, Housekeeping
from gateway.log.page_arrays import MANY
from gateway.log.reader import Reader
from gateway.protocol.append import Producer
from gateway.protocol.create import Fork
from tests.log.rig import JSON, Log, connected, holding, opened, until_blocked

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

AT_ONCE = timedelta(0)
# What is marked as packed has no rows, and its pages lead without a gap from what it inherits to its tail.
BROKEN = """
    SELECT s.path FROM run_gateway.streams s
      LEFT JOIN LATERAL (
            SELECT count(*) AS n, min(p.first) AS first, max(p.last) AS last, sum(p.last - p.first + 1) AS events
              FROM run_gateway.pages p WHERE p.stream = s.id) p ON true
     WHERE s.path IS NOT NULL AND (
            s.packed AND EXISTS (SELECT FROM run_gateway.events e WHERE e.stream = s.id)
         OR s.packed AND coalesce(p.last, s.lineage_ends[cardinality(s.lineage_ends)], 0) <> s.tail
         OR p.n > 0 AND (p.last - p.first + 1 <> p.events
                         OR p.first <> coalesce(s.lineage_ends[cardinality(s.lineage_ends)], 0) + 1))
"""
PLACES = """
    SELECT s.packed, (SELECT count(*) FROM run_gateway.pages p WHERE p.stream = s.id),
           (SELECT count(*) FROM run_gateway.events e WHERE e.stream = s.id)
      FROM run_gateway.streams s WHERE s.path = $1
"""


async def places(look: Connection, path: str) -> tuple[bool, int, int]:
    """Whether it is marked as packed, and how many pages and rows it has."""
    row = await look.fetchrow(PLACES, path)
    assert row is not None
    return row[0], row[1], row[2]


async def pack(look: Connection, *paths: str, page_bytes: int = PAGE_BYTES, page_events: int = PAGE_EVENTS) -> int:
    """Packs these streams as if they were silent. Returns the pages that it wrote."""
    ids = [await look.fetchval("SELECT id FROM run_gateway.streams WHERE path = $1", path) for path in paths]
    pages = 0
    while ids:
        row = await look.fetchrow("SELECT * FROM run_gateway.pack_whole($1, $2, $3)", ids, page_bytes, page_events)
        assert row is not None
        assert not row["failed"]
        pages += row["pages"]
        ids = ids[row["seen"] :]
    assert await look.fetch(BROKEN) == []
    return pages


def impatient(log: Log) -> Housekeeping:
    """Counts as silent whatever was not written to since its round before the last."""
    return Housekeeping(log.database, machine="m1", interval=1, silence=AT_ONCE)


async def test_a_silent_stream_is_packed_whatever_its_length(database_url: str) -> None:
    async with opened(database_url, pack=False) as log, connected(database_url) as look:
        housekeeping = impatient(log)
        lengths = {"none": 0, "one": 1, "three": 3, "many": MANY - 1, "short of a page": 1_499}
        for path, length in lengths.items():
            await log.create(path)
            if length:
                await log.append(path, *[b"%d" % n for n in range(length)])
        await log.create("text", "text/plain")
        await log.append("text", b"abc", type="text/plain")
        await log.create("fork", None, fork=Fork("three", 2, 0))
        before = {path: await log.content(path) for path in lengths}
        await housekeeping.round()
        assert not (await places(look, "one"))[0], "how long it has been silent is not known yet"
        await log.append("three", b"3")
        await housekeeping.round()
        for path in lengths:
            if path != "three":
                packed, _, rows = await places(look, path)
                assert (packed, rows) == (True, 0), path
                assert await log.content(path) == before[path]
        assert await places(look, "three") == (False, 0, 4), "it has just been written to"
        assert await places(look, "text") == (True, 1, 0)
        assert await places(look, "fork") == (True, 0, 0), "all that it has is its source's"
        assert await look.fetch(BROKEN) == []
        await housekeeping.round()
        assert await places(look, "three") == (True, 1, 0)
        left = await look.fetchval("SELECT count(*) FROM run_gateway.streams WHERE NOT packed AND path IS NOT NULL")
        assert left == 0, "what is packed is looked at no more"


async def test_readers_and_signs_of_life_are_no_events(database_url: str) -> None:
    """Both write the stream's row."""
    async with opened(database_url) as log, connected(database_url) as look:
        housekeeping = impatient(log)
        await log.create("read", ttl=3600, body=b"[1,2]")
        await look.execute("SELECT run_gateway.create('runs/alive', lease => 30)")
        await log.append("runs/alive", b"1")
        await housekeeping.round()
        for round in range(2):
            await log.reader.touch(["read"])
            await look.fetch("SELECT run_gateway.append_one('runs/alive', NULL, false, NULL, 'p', 0, -1, NULL, 30)")
            if round == 0:
                await housekeeping.round()
        assert await places(look, "read") == (True, 1, 0)
        assert await places(look, "runs/alive") == (True, 1, 0), "and it stays so"


WAYS: dict[str, Callable[[Log, Connection, str], Awaitable[object]]] = {
    "alone": lambda log, _, path: log.append(path, b"9"),
    "of a producer": lambda log, _, path: log.append(path, b"9", producer=Producer("p", 0, 0)),
    "of several": lambda _, look, path: look.fetch(
        "SELECT * FROM run_gateway.append_plain(ARRAY[$1], 'application/json', 1, '{1}', '{1}',"
        " ARRAY['9'::bytea])", path
    ),
    "of any": lambda _, look, path: look.fetch(
        "SELECT * FROM run_gateway.append_batch(ARRAY[$1], ARRAY['application/json'], '{1}', '{false}', NULL, NULL,"
        " NULL, NULL, '{1}', '{1}', ARRAY['9'::bytea], NULL)", path
    ),
    "from SQL": lambda _, look, path: look.fetch("SELECT run_gateway.append($1, '9'::jsonb)", path),
    "with an end": lambda log, _, path: log.append(path, b"9", close=True),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
async def test_an_append_by_any_way_ends_the_silence(database_url: str, way: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        await log.create("runs/s", body=b"[1,2,3]")
        assert await pack(look, "runs/s") == 1
        assert await places(look, "runs/s") == (True, 1, 0)
        await WAYS[way](log, look, "runs/s")
        assert await places(look, "runs/s") == (False, 1, 1)
        assert await log.content("runs/s") == b"1,2,3,9"
        assert await pack(look, "runs/s") == 1
        assert await places(look, "runs/s") == (True, 1, 0), "what comes now and then is taken into the page before"
        assert await log.content("runs/s") == b"1,2,3,9"


async def test_what_says_a_little_at_a_time_is_a_few_pages(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        await log.create("s")
        events = [b"%d" % n for n in range(300)]
        written = 0
        for n, event in enumerate(events, 1):
            await log.append("s", event)
            await pack(look, "s")
            written += await look.fetchval(
                "SELECT cardinality(lengths) FROM run_gateway.pages ORDER BY last DESC LIMIT 1"
            )
            assert (await places(look, "s"))[1] <= 5, n
        assert written < 20 * len(events), "each is written anew a few times, and not three hundred"
        assert await log.content("s") == b",".join(events)


@pytest.mark.parametrize("seed", range(4))
async def test_a_stream_that_rests_now_and_then_is_read_alike(database_url: str, seed: int) -> None:
    """Whatever comes in between: appends of all lengths, forks, closes, deletes, both ways of packing."""
    chance = random.Random(seed)
    kind = JSON if seed % 2 else "text/plain"
    separator = b"," if kind == JSON else b""
    written: dict[str, list[bytes]] = {}
    closed: set[str] = set()
    numbers = itertools.count()
    async with opened(database_url) as log, connected(database_url) as look:

        async def create() -> None:
            path = f"s{next(numbers)}"
            body = [b"%d" % chance.randrange(10**9) for _ in range(chance.choice([0, 1, 70, 200]))]
            if kind == JSON:
                await log.create(path, kind, body=b"[" + b",".join(body) + b"]")
                written[path] = body
            else:
                await log.create(path, kind)
                written[path] = []

        async def fork() -> None:
            source = chance.choice(list(written))
            if written[source]:
                at = chance.randint(1, len(written[source]))
                path = f"s{next(numbers)}"
                await log.create(path, None, fork=Fork(source, at, 0))
                written[path] = written[source][:at]

        async def append() -> None:
            open_ones = [path for path in written if path not in closed]
            if open_ones:
                path = chance.choice(open_ones)
                events = [b"%d" % chance.randrange(10 ** chance.choice([1, 3, 30])) for _ in range(
                    chance.choice([1, 1, 2, 5, 30, MANY, 150]))]  # fmt: skip
                close = chance.random() < 0.07
                await log.append(path, *events, type=kind, close=close)
                written[path] += events
                if close:
                    closed.add(path)

        async def rest() -> None:
            sizes = chance.choice([(PAGE_BYTES, PAGE_EVENTS), (PAGE_BYTES, 40), (400, 1_000)])
            some = chance.sample(list(written), min(len(written), 3))
            await pack(look, *some, page_bytes=sizes[0], page_events=sizes[1])

        async def long() -> None:
            path = chance.choice(list(written))
            await look.fetchval(
                "SELECT run_gateway.pack_page(id, 65536, 20, 5) FROM run_gateway.streams WHERE path = $1", path
            )

        async def delete() -> None:
            if len(written) > 4 and chance.random() < 0.3:
                path = chance.choice(list(written))
                await log.lifecycle.delete(path)
                del written[path]
                closed.discard(path)
                while await log.housekeeping.purge():
                    pass

        await create()
        for _ in range(90):
            await chance.choice([append, append, append, rest, rest, long, fork, create, delete])()
            path = chance.choice(list(written))
            events = written[path]
            position = chance.randint(0, len(events))
            reader = Reader(log.database, page_bytes=chance.choice([1, 300, 1 << 20]))
            batch = (await reader.live(path, position, recent=chance.choice([0, 50, 10_000]))).batch
            assert batch.body == separator.join(events[batch.start : batch.end])
            assert batch.up_to_date == (batch.end == len(events))
        assert await look.fetch(BROKEN) == []
        for path, events in written.items():
            assert await log.content(path) == separator.join(events)
        await pack(look, *written)
        for path, events in written.items():
            assert await log.content(path) == separator.join(events)


async def test_who_appends_at_this_moment_waits_and_is_stored(database_url: str) -> None:
    """Many events at once take the few rows before them along, which packing has just moved."""
    async with opened(database_url) as log, connected(database_url) as packer, connected(database_url) as look:
        await log.create("s", body=b"[1,2,3]")
        async with packer.transaction():
            assert await pack(packer, "s") == 1
            appending = asyncio.create_task(log.append("s", *[b"%d" % n for n in range(4, 4 + MANY)]))
            await until_blocked(look)
        assert (await appending).tail == 3 + MANY
        assert await log.content("s") == b",".join([b"%d" % n for n in range(1, 4 + MANY)])
        assert await places(look, "s") == (False, 2, 0)


async def test_what_somebody_holds_is_packed_another_time(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        for path in ("held", "free", "doomed"):
            await log.create(path, body=b"[1,2,3]")
        async with holding(database_url, "held"):
            assert await pack(look, "held", "free") == 1
        assert await places(look, "held") == (False, 0, 3)
        await log.lifecycle.delete("doomed")
        doomed = await look.fetchval("SELECT id FROM run_gateway.streams WHERE path IS NULL")
        assert await look.fetchval("SELECT pages FROM run_gateway.pack_whole(ARRAY[$1::bigint], 100, 100)", doomed) == 0
        assert await pack(look, "held") == 1


async def test_large_events_are_packed_in_bounded_steps(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        await log.create("s")
        large = [b'"%b"' % (b"%d" % (n % 10) * 200_000) for n in range(12)]
        for event in large:
            await log.append("s", event)
        assert await pack(look, "s") == len(large), "each is a page of its own"
        assert await log.content("s") == b",".join(large)


async def test_a_silence_is_told_from_two_marks(database_url: str) -> None:
    async with connected(database_url) as look:

        async def silence() -> int:
            return int(await look.fetchval("SELECT run_gateway.silence('5 minutes')"))

        async def later(by: str) -> None:
            await look.execute("UPDATE run_gateway.housekeeping SET quiet_since = quiet_since - $1::text::interval", by)

        everything = 1 << 31  # transactions: no row is as old
        assert await silence() == everything
        await later("4 minutes")
        assert await silence() == everything
        await later("2 minutes")
        first = await silence()
        assert 0 < first < everything, "the first mark is as old as that by now"
        await later("4 minutes")
        assert await silence() > first, "it is still the first mark, some transactions later"
        await later("-1 hour")
        assert await silence() < everything, "the clock was set back"


async def test_what_a_put_brings_is_a_page_if_it_is_much(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        for path, count, closed in (("few", MANY - 1, False), ("many", MANY, False), ("more", 2_500, False),
                                    ("runs/ended", 100, True)):  # fmt: skip
            events = [b'{"n":%d}' % n for n in range(count)]
            if closed:
                events[-1] = b'{"type":"run_end","isError":true}'
            created = await log.create(path, body=b"[" + b",".join(events) + b"]", closed=closed)
            assert (created.tail, created.closed) == (count, closed)
            packed, pages, rows = await places(look, path)
            assert not packed
            assert (pages, rows) == ((0, count) if count < MANY else (-(-count // PAGE_EVENTS), 0))
            assert await log.content(path) == b",".join(events)
            assert await log.content(path, count // 2) == b",".join(events[count // 2 :])
        assert await look.fetchval("SELECT status FROM run_gateway.runs") == "errored", "by its last event"
        await log.create("fork", None, fork=Fork("more", 1_234, 0), body=b"[" + b",".join(events) + b"]")
        assert (await log.reader.stat("fork")).tail == 1_334
        assert (await log.content("fork", 1_234)) == b",".join(events)
        assert await look.fetch(BROKEN) == []


async def test_where_packing_is_off_a_put_is_rows(database_url: str) -> None:
    async with opened(database_url, pack=False) as log, connected(database_url) as look:
        await log.create("s", body=b"[" + b",".join([b"1"] * 200) + b"]")
        assert await places(look, "s") == (False, 0, 200)
