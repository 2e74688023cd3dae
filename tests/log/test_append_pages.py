"""Events that come in numbers are written as pages at once: no reader can tell, nor can whoever packs."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import asyncpg
import pytest

from gateway.log.appends import CALL_LARGE
from gateway.log.housekeeping import MARGIN, PAGE_BYTES, PAGE_EVENTS
from gateway.log.lane import Lane
from gateway.log.page_arrays import LARGE, MANY, Pages
from gateway.log.reader import Reader
from gateway.protocol.append import Producer
from gateway.protocol.create import Fork
from gateway.protocol.errors import ProtocolError, StreamClosed, StreamNotFound
from tests.log.rig import JSON, Log, connected, opened, until_blocked

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

# Where the events of a stream are, in order: a page, or a row.
PLACES = (
    "SELECT first, last, paged FROM ("
    " SELECT p.stream, p.first, p.last, true AS paged FROM run_gateway.pages p"
    " UNION ALL SELECT e.stream, e.seq, e.seq, false FROM run_gateway.events e) places"
    " JOIN run_gateway.streams s ON s.id = stream WHERE s.path = $1 ORDER BY first"
)


async def places(look: Connection, path: str) -> list[tuple[int, int]]:
    """First and last event of each page of a stream, once it is clear that all else are rows after them."""
    found = await look.fetch(PLACES, path)
    assert [place["paged"] for place in found] == sorted([place["paged"] for place in found], reverse=True)
    for before, after in pairwise(found):
        assert after["first"] == before["last"] + 1
    assert not found or found[-1]["last"] == await look.fetchval(
        "SELECT tail FROM run_gateway.streams WHERE path = $1", path
    )
    return [(place["first"], place["last"]) for place in found if place["paged"]]


def some(chance: random.Random, count: int) -> list[bytes]:
    return [b"%d" % chance.randrange(10 ** chance.choice([1, 3, 30])) for _ in range(count)]


async def test_many_events_are_a_page_and_few_are_rows(database_url: str) -> None:
    async with opened(database_url) as log, connected(database_url) as look:
        for path, counts, pages in (
            ("many", [MANY], [(1, MANY)]),
            ("few", [MANY - 1], []),
            ("many again", [MANY, 100, MANY], [(1, MANY), (MANY + 1, MANY + 100), (MANY + 101, 2 * MANY + 100)]),
            ("a few before", [1, 2, MANY], [(1, MANY + 3)]),
            ("a few after", [MANY, 5], [(1, MANY)]),
            ("a few in between", [MANY, 5, MANY], [(1, MANY), (MANY + 1, 2 * MANY + 5)]),
            ("as many before", [MANY - 1, 1, MANY], [(1, 2 * MANY)]),
            ("more before", [MANY - 1, 2, MANY], []),
            ("a hundred before", [50, 50, 400], [(1, 500)]),
            ("over a hundred before", [50, 51, 400], []),
        ):
            await log.create(path)
            written: list[bytes] = []
            for count in counts:
                events = some(random.Random(count), count)
                written += events
                assert (await log.append(path, *events)).tail == len(written)
            assert await places(look, path) == pages, path
            assert await log.content(path) == b",".join(written)


async def test_pages_are_no_larger_than_packed_ones(database_url: str) -> None:
    async with opened(database_url, max_pending=1 << 24) as log, connected(database_url) as look:
        for path, count, size in (("large", 100, 3_000), ("huge", MANY, PAGE_BYTES + 1), ("small", 3_500, 1)):
            await log.create(path)
            events = [b"1" * size for _ in range(count)]
            await log.append(path, b"0")
            await log.append(path, *events)
            content = b",".join([b"0", *events])
            assert await log.content(path) == content
            pages = await places(look, path)
            assert len(pages) == max(-(-count // PAGE_EVENTS), -(-count // max(PAGE_BYTES // size, 1)))
            for position in (1, 2, count // 2, count):
                page = (await Reader(log.database, page_bytes=PAGE_BYTES).read(path, position)).batch
                assert content[len(b",".join([b"0", *events[: position - 1]])) + 1 :].startswith(page.body)


async def test_large_requests_are_sent_in_one_piece(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come in the same order, whatever goes with them, by each way that a large request has."""
    sent: list[str] = []
    fetchrow = Lane.fetchrow

    async def fetch(lane: Lane, statement: str, *arguments: object) -> asyncpg.Record:
        sent.append(statement)
        return await fetchrow(lane, statement, *arguments)

    monkeypatch.setattr(Lane, "fetchrow", fetch)
    chance = random.Random(3)
    async with opened(database_url, max_pending=1 << 26) as log:
        for path, count, size in (("few", 40, 60_000), ("many", 700, 4_000), ("one", 1, 2 * LARGE)):
            events = [b'"%b"' % (b"%d" % n * chance.randrange(size // 2, size)) for n in range(count)]
            content = b",".join(events)
            assert len(content) > LARGE
            await log.create(path)
            await log.append(path, *events)
            assert await log.content(path) == content
            await log.append(path, *events, close=True, producer=Producer("p", 0, 0))
            assert await log.content(path) == content + b"," + content
            await log.create(f"{path} anew", body=b"[%b]" % content)
            assert await log.content(f"{path} anew") == content
            for name in "ab":
                await log.create(f"{path} {name}")
            await asyncio.gather(*(log.append(f"{path} {name}", *events) for name in "ab"))
            assert await log.content(f"{path} a") == await log.content(f"{path} b") == content
    assert set(sent) == {CALL_LARGE}


def test_where_the_events_of_a_page_begin_is_where_they_are() -> None:
    chance = random.Random(5)
    for gap in (0, 1):
        events = [[b"%d" % n * chance.choice([1, 20_000]) for n in range(chance.randint(MANY, 120))] for _ in range(9)]
        pages = Pages()
        for entry, some in enumerate(events, 1):
            pages.add(entry, (b"," * gap).join(some), list(map(len, some)), gap)
        lengths = iter(pages.lengths)
        read: list[list[bytes]] = [[] for _ in events]
        for entry, ordinal, count, body in zip(pages.entries, pages.ordinals, pages.counts, pages.bodies, strict=True):
            assert ordinal == len(read[entry - 1]) + 1
            place = 0
            for _ in range(count):
                length = next(lengths)
                read[entry - 1].append(body[place : place + length])
                place += length + gap
            assert place - gap == len(body)
        assert read == events
        assert list(lengths) == []


@pytest.mark.parametrize("count", [3, 30])
async def test_large_events_before_many_make_no_oversized_page(database_url: str, count: int) -> None:
    """They are read one by one. Of some megabytes each they would be more than Postgres can hold in one page."""
    async with opened(database_url) as log, connected(database_url) as look:
        await log.create("run")
        large = [b'"%b"' % (b"%d" % n * 50_000) for n in range(count)]
        for event in large:
            await log.append("run", event)
        events = [b"%d" % n for n in range(2 * PAGE_EVENTS)]
        await log.append("run", *events)
        assert await places(look, "run") == []
        assert await log.content("run") == b",".join([*large, *events])


@pytest.mark.parametrize("type", [JSON, "text/plain"])
async def test_whatever_is_written_is_read_from_every_position(database_url: str, type: str) -> None:
    """Rows, pages, forks in the middle of both, and packing in between."""
    chance = random.Random(type)
    separator = b"," if type == JSON else b""
    async with opened(database_url) as log, connected(database_url) as look:
        await look.execute("SET lock_timeout = '10s'")
        written: dict[str, list[bytes]] = {}
        for n in range(8):
            path = f"s{n}"
            written[path] = []
            if n < 3:
                await log.create(path, type)
            else:
                source = chance.choice(list(written)[:n])
                at = chance.randint(1, len(written[source]) - 1)
                await log.create(path, None, fork=Fork(source, at, 0))
                written[path] = written[source][:at]
            for number in range(chance.randint(3, 7)):
                events = some(chance, chance.choice([1, 2, 20, 70, 150, 700]))
                written[path] += events
                producer = chance.choice([None, Producer(f"p{number}", 0, 0)])
                result = await log.append(path, *events, type=type, producer=producer)
                if producer is not None:  # its retry changes nothing
                    again = await log.append(path, *events, type=type, producer=producer)
                    assert again == replace(result, duplicate=True)
                assert result.tail == len(written[path])
                if chance.random() < 0.3:
                    await chance.choice([pack, pack_whole])(look, path)
                await places(look, path)
            if n % 2:
                await log.append(path, close=True)
        for closed in range(1, 8, 2):
            await pack(look, f"s{closed}")
        for path, events in written.items():
            assert await log.content(path) == separator.join(events)
            for page_bytes, recent in ((1, None), (700, None), (1 << 20, 50), (1 << 20, 10_000)):
                reader = Reader(log.database, page_bytes=page_bytes)
                for position in chance.sample(range(len(events)), min(len(events), 12)):
                    if recent is None:
                        batch = (await reader.read(path, position, touch=False)).batch
                        assert batch.start == position
                    else:
                        batch = (await reader.live(path, position, recent=recent)).batch
                        assert batch.lengths is not None
                        assert list(batch.lengths) == [len(event) for event in events[batch.start : batch.end]]
                    assert batch.end > position
                    assert batch.body == separator.join(events[batch.start : batch.end])


async def pack(look: Connection, path: str, events: int = PAGE_EVENTS, margin: int = MARGIN) -> int:
    steps = 0
    while await look.fetchval(
        "SELECT run_gateway.pack_page(id, $2, $3, $4) FROM run_gateway.streams WHERE path = $1",
        *(path, PAGE_BYTES, events, margin),
    ):
        steps += 1
    return steps


async def pack_whole(look: Connection, path: str) -> int:
    """As a stream that is silent is packed."""
    return int(
        await look.fetchval(
            "SELECT p.pages FROM run_gateway.streams s, run_gateway.pack_whole(ARRAY[s.id], $2, $3) p"
            " WHERE s.path = $1",
            *(path, PAGE_BYTES, PAGE_EVENTS),
        )
    )


async def test_a_refusal_writes_no_page_and_its_neighbours_get_theirs(database_url: str) -> None:
    async with opened(database_url, lanes=1) as log, connected(database_url) as look:
        for path in "abcd":
            await log.create(path)
        await log.append("b", close=True)
        log.writer._crowd = 2
        outcomes = await asyncio.gather(
            *(log.append(path, *some(random.Random(path), 70)) for path in "abx"),
            log.append("c", b"1"),
            log.append("d", *some(random.Random(1), 80), close=True, producer=Producer("p", 0, 0)),
            return_exceptions=True,
        )
        assert [getattr(outcome, "tail", None) for outcome in outcomes] == [70, None, None, 1, 80]
        assert isinstance(outcomes[1], StreamClosed)
        assert isinstance(outcomes[2], StreamNotFound)
        assert await places(look, "a") == [(1, 70)]
        assert await places(look, "d") == [], "what closes a stream is rows"
        assert await look.fetchval("SELECT count(*) FROM run_gateway.pages") == 1


async def test_mixed_writers_and_packing_lose_and_repeat_nothing(database_url: str) -> None:
    """Two Machines, and a packer in a greater hurry than any."""
    paths = "abc"
    async with (
        opened(database_url) as one,
        opened(database_url, machine="m2") as two,
        connected(database_url) as packer,
        connected(database_url) as look,
    ):
        written: dict[str, set[bytes]] = {path: set() for path in paths}
        for path in paths:
            await one.create(path)
            for n in range(10):
                written[path].update(events := [b"%d" % (7_000_000 + 25 * n + m) for m in range(25)])
                await one.append(path, *events)
        writing = 6

        async def write(log: Log, number: int) -> None:
            nonlocal writing
            chance = random.Random(number)
            for n in range(40):
                path = chance.choice(paths)
                events = [b"%d%06d%06d" % (number + 1, n, m) for m in range(chance.choice([1, 1, 1, 10, 70, 130]))]
                before = len(written[path])
                assert (await log.append(path, *events)).tail >= before + len(events)
                written[path].update(events)
            writing -= 1

        async def pack_all() -> int:
            steps = 0
            while writing:
                for path in paths:
                    steps += await pack(packer, path, events=100, margin=20)
                    if steps % 5 == 0:
                        await pack_whole(packer, path)
                await asyncio.sleep(0.01)
            return steps

        packing = asyncio.create_task(pack_all())
        await asyncio.gather(*(write((one, two)[n % 2], n) for n in range(6)))
        assert await packing >= len(paths)
        for path in paths:
            assert len(await places(look, path)) > 3
            events = (await one.content(path)).split(b",")
            assert len(events) == len(written[path])
            assert set(events) == written[path]
            for number in range(1, 8):  # and each writer's own are in its order
                own = [event for event in events if event.startswith(b"%d" % number)]
                assert own == sorted(own)


async def test_where_packing_is_off_no_page_is_written(database_url: str) -> None:
    async with opened(database_url, pack=False) as log, connected(database_url) as look:
        await log.create("s")
        await log.append("s", *[b"1"] * 200)
        assert await places(look, "s") == []
        assert await log.content("s") == b",".join([b"1"] * 200)


async def test_rows_that_were_packed_meanwhile_are_not_packed_twice(database_url: str) -> None:
    """It does not happen while packing waits for more rows than go into a page; should it, nothing is changed."""
    async with opened(database_url) as log, connected(database_url) as packer, connected(database_url) as look:
        await log.create("s")
        await log.append("s", *[b"%d" % n for n in range(20)])
        async with packer.transaction():
            assert await packer.fetchval("SELECT run_gateway.pack_page(1, 1000, 4, 2)")
            appending = asyncio.create_task(log.append("s", *[b"%d" % n for n in range(20, 90)]))
            await until_blocked(look)
        with pytest.raises(ProtocolError):
            await appending
        assert await log.content("s") == b",".join([b"%d" % n for n in range(20)])
        await log.append("s", *[b"%d" % n for n in range(20, 90)])
        await places(look, "s")
