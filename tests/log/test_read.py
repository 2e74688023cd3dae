"""The reader over a real Postgres: pages, forks, and one snapshot of rows and "closed"."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.protocol import errors
from gateway.protocol.batch import Batch, after
from gateway.protocol.create import Fork
from tests.log.rig import JSON, Log, connected, opened


async def pages(log: Log, path: str, position: int = 0) -> list[Batch]:
    found: list[Batch] = []
    while not found or not found[-1].up_to_date:
        found.append((await log.reader.read(path, position)).batch)
        position = found[-1].end
    return found


async def test_a_page_ends_with_the_event_that_fills_it(database_url: str) -> None:
    async with opened(database_url, page_bytes=10) as log:
        await log.create("s", "text/plain")
        for _ in range(7):
            await log.append("s", b"abcd", type="text/plain")
        assert await pages(log, "s") == [
            Batch(0, 3, b"abcdabcdabcd", up_to_date=False, closed=False),
            Batch(3, 6, b"abcdabcdabcd", up_to_date=False, closed=False),
            Batch(6, 7, b"abcd", up_to_date=True, closed=False),
        ]


async def test_where_an_event_is_missing_no_read_goes_on_behind_it(database_url: str) -> None:
    """A database that has lost a row is a fault: nobody is told that what comes next is all there is."""
    async with opened(database_url) as log, connected(database_url) as thief:
        await log.create("s", body=b"[1,2,3,4,5]")
        await thief.execute("DELETE FROM run_gateway.events WHERE seq = 3")
        for position in (0, 1, 2):
            with pytest.raises(errors.Unavailable):
                await log.reader.read("s", position)
            with pytest.raises(errors.Unavailable):
                await log.reader.live("s", position)
        assert (await log.reader.read("s", 3)).batch.body == b"4,5"


async def test_a_page_that_ends_at_the_tail_says_so(database_url: str) -> None:
    async with opened(database_url, page_bytes=8) as log:
        await log.create("s", "text/plain")
        await log.append("s", b"abcd", b"efgh", type="text/plain", close=True)
        assert await pages(log, "s") == [Batch(0, 2, b"abcdefgh", up_to_date=True, closed=True)]


async def test_an_event_larger_than_a_page_is_a_page(database_url: str) -> None:
    async with opened(database_url, page_bytes=10) as log:
        await log.create("s")
        await log.append("s", b'"%b"' % (b"x" * 500), b"1", b'"%b"' % (b"y" * 500))
        assert [(batch.start, batch.end, len(batch.body)) for batch in await pages(log, "s")] == [
            (0, 1, 502),
            (1, 3, 504),
        ]


async def test_json_is_joined_by_commas_and_all_else_by_nothing(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("json", "application/json; charset=utf-8")
        await log.append("json", b'{"a":1}', b"2")
        await log.create("bytes", "application/octet-stream")
        await log.append("bytes", b"\x00\xff", type="application/octet-stream")
        await log.append("bytes", b"\r\n", type="application/octet-stream")
        assert (await log.reader.read("json", 0)).batch.body == b'{"a":1},2'
        assert (await log.reader.read("bytes", 0)).batch.body == b"\x00\xff\r\n"


async def test_at_the_tail_there_is_nothing_and_that_is_up_to_date(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s", body=b"[1,2]")
        assert (await log.reader.read("s", 2)).batch == Batch(2, 2, b"", up_to_date=True, closed=False)
        await log.append("s", close=True)
        assert (await log.reader.read("s", 2)).batch == Batch(2, 2, b"", up_to_date=True, closed=True)
        await log.create("empty", body=b"")
        assert (await log.reader.read("empty", 0)).batch == Batch(0, 0, b"", up_to_date=True, closed=False)


async def test_closed_is_said_only_where_nothing_is_left(database_url: str) -> None:
    async with opened(database_url, page_bytes=1) as log:
        await log.create("s", body=b"[1,2,3]", closed=True)
        assert [batch.closed for batch in await pages(log, "s")] == [False, False, True]


@pytest.mark.parametrize(("last", "start"), [(1, 9), (3, 7), (10, 0), (11, 0), (2**62, 0), (0, 10)])
async def test_the_last_events_are_counted_from_the_tail(database_url: str, last: int, start: int) -> None:
    async with opened(database_url) as log:
        await log.create("s")
        await log.append("s", *[b"%d" % n for n in range(10)])
        batch = (await log.reader.read("s", 0, last_events=last)).batch
        assert (batch.start, batch.end, batch.up_to_date) == (start, 10, True)
        assert batch.body == b",".join(b"%d" % n for n in range(start, 10))


async def test_the_last_events_of_a_fork_reach_into_what_it_inherits(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("source", body=b"[0,1,2,3,4]")
        await log.create("fork", None, fork=Fork("source", 3, 0))
        await log.append("fork", b"30", b"40")
        assert (await log.reader.read("fork", 0, last_events=4)).batch == Batch(1, 5, b"1,2,30,40", True, False)


async def test_what_is_not_there_and_what_is_gone_are_told_apart(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("source", body=b"[1]")
        await log.create("fork", None, fork=Fork("source", None, 0))
        await log.lifecycle.delete("source")
        for read in (lambda path: log.reader.read(path, 0), log.reader.stat):
            with pytest.raises(errors.StreamNotFound):
                await read("nowhere")
            with pytest.raises(errors.StreamGone):
                await read("source")
        assert await log.reader.positions(["nowhere", "source"]) == {}


async def test_positions_are_those_of_the_streams_that_exist(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("a", body=b"[1,2]")
        await log.create("b", closed=True)
        a, b = await log.reader.stat("a"), await log.reader.stat("b")
        assert await log.reader.positions(["a", "b", "c"]) == {"a": (a.id, 2, False), "b": (b.id, 0, True)}


async def test_rows_and_closed_are_one_snapshot_while_others_append(database_url: str) -> None:
    """Law 3: a page never skips, and never says "closed" before the last event, whenever it is read."""
    total = 1000
    async with opened(database_url, page_bytes=64) as log, opened(database_url, machine="m2", page_bytes=64) as other:
        await log.create("s")

        async def write() -> None:
            for n in range(0, total, 25):
                await log.append("s", *[b"%d" % i for i in range(n + 1, n + 26)], close=n + 25 == total)

        async def read(where: Log) -> int:
            position = full = 0
            while True:
                page = await where.reader.read("s", position)
                batch = page.batch
                assert batch.start == position
                assert batch.body == b",".join(b"%d" % n for n in range(position + 1, batch.end + 1))
                assert batch.up_to_date == (batch.end == page.stream.tail)
                assert batch.closed == (batch.end == total)
                position = batch.end
                full += not batch.up_to_date
                if batch.closed:
                    return full

        _, *lagging = await asyncio.gather(write(), read(log), read(other), read(other))
        assert sum(lagging), "some pages were read in the middle of the log"


# What is known already


async def test_a_page_that_is_known_is_the_same_as_one_that_is_read(database_url: str) -> None:
    """Every page ever read, against the log as it is later: longer, closed, deleted, another one at the same path."""
    async with opened(database_url, page_bytes=10) as log:
        await log.create("s", "text/plain")
        known = [await log.reader.read("s", 0)]

        async def compare() -> None:
            for page in list(known):
                again = await log.reader.read("s", page.batch.start, known=page)
                read = await log.reader.read("s", page.batch.start)
                assert again == read
                unchanged = page.stream.id == read.stream.id and page.batch.end == read.batch.end
                if unchanged and page.batch.up_to_date == read.batch.up_to_date:
                    assert again.batch.body is page.batch.body, "its bytes did not travel"
                known.append(read)

        for n in range(5):
            await log.append("s", b"%04d" % n, type="text/plain")
            known += [await log.reader.read("s", position) for position in range(n + 1)]
            await compare()
            known = known[-12:]
        await log.append("s", close=True)
        await compare()
        await log.lifecycle.delete("s")
        for page in known:
            with pytest.raises(errors.StreamNotFound):
                await log.reader.read("s", page.batch.start, known=page)
        await log.create("s", "text/plain")
        for _ in range(5):
            await log.append("s", b"other", type="text/plain")
        await compare()


# For those who follow


@pytest.mark.parametrize("type", [JSON, "text/plain"])
async def test_a_page_for_followers_tells_where_its_events_end(database_url: str, type: str) -> None:
    async with opened(database_url) as log:
        await log.create("source", type)
        await log.append("source", b"1", b"22", type=type)
        await log.create("s", None, fork=Fork("source", 2, 0))
        await log.append("s", b"333", b"4444", type=type)
        page = await log.reader.live("s", 1)
        assert (page.batch.start, page.batch.end, page.batch.lengths) == (1, 4, [2, 3, 4])
        assert (await log.reader.live("s", 4)).batch == Batch(4, 4, b"", True, False)
        for position in range(1, 5):
            rest = after(page.stream.encoding, page.batch, position)
            assert rest == (await log.reader.read("s", position)).batch


async def test_a_page_close_to_the_tail_begins_a_little_earlier(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s")
        await log.append("s", *[b"%d" % (10**99 + n) for n in range(1000)])
        for position, recent, start in (
            (1000, 1000, 990),
            (995, 1000, 985),
            (990, 10**6, 990 - 128),
            (3, 1000, 3),
            (1000, 99, 1000),
            (1000, 0, 1000),
        ):
            batch = (await log.reader.live("s", position, recent=recent)).batch
            assert batch.start == start
            assert batch.end == (652 if start == 3 else 1000)
        batch = (await log.reader.live("s", 0, last_events=3)).batch
        assert (batch.start, batch.end, len(batch.lengths or ())) == (997, 1000, 3)


async def test_a_page_that_begins_earlier_reaches_beyond_its_position(database_url: str) -> None:
    async with opened(database_url, page_bytes=1000) as log:
        await log.create("s", "text/plain")
        for _ in range(20):
            await log.append("s", b"x" * 100, type="text/plain")
        for position in range(20):
            batch = (await log.reader.live("s", position, recent=10**6)).batch
            assert batch.start == max(position - 5, 0), "half a page at most"
            assert batch.end > position


# Forks


async def test_a_chain_of_forks_reads_as_one_stream_across_its_seams(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("a", body=b"[1,2,3,4]")
        await log.create("b", None, fork=Fork("a", 3, 0))
        await log.append("b", b"30", b"31")
        await log.create("c", None, fork=Fork("b", 4, 0))
        await log.append("c", b"300")
        await log.create("d", None, fork=Fork("c", 2, 0))
        await log.append("d", b"3000")
        await log.append("a", b"5")
        assert await log.content("a") == b"1,2,3,4,5"
        assert await log.content("b") == b"1,2,3,30,31"
        assert await log.content("c") == b"1,2,3,30,300"
        assert await log.content("d") == b"1,2,3000"
        assert (await log.reader.read("c", 0)).batch == Batch(0, 5, b"1,2,3,30,300", True, False), "in one page"
        assert (await log.reader.read("c", 3)).batch == Batch(3, 5, b"30,300", True, False)


Refusal = type[errors.ProtocolError]


@dataclass
class ModelFork:
    """A stream as the list of its events; a fork begins with a copy of its source's."""

    type: str
    events: list[bytes] = field(default_factory=list)

    def forked(self, anchor: int, sub_offset: int) -> ModelFork | Refusal:
        if anchor > len(self.events):
            return errors.ForkOffsetBeyondTail
        if self.type == JSON:
            if anchor + sub_offset > len(self.events):
                return errors.ForkSubOffsetBeyondData
            return ModelFork(self.type, self.events[: anchor + sub_offset])
        if not sub_offset:
            return ModelFork(self.type, self.events[:anchor])
        following = self.events[anchor] if anchor < len(self.events) else b""
        if sub_offset > len(following):
            return errors.ForkSubOffsetBeyondData
        return ModelFork(self.type, [*self.events[:anchor], following[:sub_offset]])

    def content(self, position: int) -> bytes:
        return (b"," if self.type == JSON else b"").join(self.events[position:])


@pytest.mark.parametrize("type", [JSON, "text/plain"])
@pytest.mark.parametrize("page_bytes", [1, 7, 1 << 20])
async def test_any_family_of_forks_reads_as_copies_would(database_url: str, type: str, page_bytes: int) -> None:
    chance = random.Random(f"{type} {page_bytes}")
    async with opened(database_url, page_bytes=page_bytes) as log:
        await log.create("s0", type)
        streams = {"s0": ModelFork(type)}
        refused = 0
        while len(streams) < 12:
            source = chance.choice(list(streams))
            if chance.random() < 0.6:
                events = [b"%d" % chance.randrange(10 ** chance.randint(1, 6)) for _ in range(chance.randint(1, 4))]
                await log.append(source, *events, type=type)
                streams[source].events += events
                continue
            anchor = chance.randint(0, len(streams[source].events) + 1)
            sub_offset = chance.choice([0, 0, 1, 2, 5])
            path = f"s{len(streams)}"
            expected = streams[source].forked(anchor, sub_offset)
            creation = log.create(path, None, fork=Fork(source, anchor, sub_offset))
            if isinstance(expected, ModelFork):
                created = await creation
                assert (created.tail, created.content_type) == (len(expected.events), type)
                streams[path] = expected
            else:
                with pytest.raises(expected):
                    await creation
                refused += 1
        assert refused

        async def compare() -> None:
            for path, stream in streams.items():
                for position in range(len(stream.events) + 1):
                    assert await log.content(path, position) == stream.content(position), (path, position)

        await compare()
        for path in chance.sample(list(streams), 6):
            await log.lifecycle.delete(path)
            del streams[path]
        await purge(log)
        await compare()


async def purge(log: Log) -> None:
    while await log.housekeeping.purge():
        pass


async def test_what_a_source_is_given_later_never_reaches_its_fork(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("source", body=b"[1]")
        await log.create("fork", None, fork=Fork("source", None, 0))
        await log.append("source", b"2", close=True)
        batch = (await log.reader.read("fork", 0)).batch
        assert batch == Batch(0, 1, b"1", up_to_date=True, closed=False)


async def test_a_fork_of_nothing_yet_begins_empty(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("source")
        await log.create("fork", None, fork=Fork("source", None, 0))
        await log.append("source", b"1")
        await log.append("fork", b"2")
        assert await log.content("fork") == b"2"


async def test_reads_of_a_long_log_touch_only_their_page(database_url: str) -> None:
    async with opened(database_url, page_bytes=1000, pack=False) as log, connected(database_url) as look:
        await log.create("s")
        for _ in range(20):
            await log.append("s", *[b"%d" % (10**9 + n) for n in range(1000)])
        await look.execute("ANALYZE")
        async with connected(database_url) as reader:
            await reader.execute("LOAD 'auto_explain'")
            plans: list[str] = []
            reader.add_log_listener(lambda _, message: plans.append(message.message))
            for name, value in {
                "log_min_duration": "0",
                "log_nested_statements": "on",
                "log_analyze": "on",
                "log_format": "json",
            }.items():
                await reader.execute(f"SET auto_explain.{name} = '{value}'")
            await reader.execute("SET client_min_messages = log")
            row = await reader.fetchrow("SELECT * FROM run_gateway.read_page('s', 10000, NULL, 1000, false)")
            assert row is not None
            assert row["until"] == 10_091, "commas count as well"
        scans = [node for plan in plans for node in nodes(json.loads(plan[plan.index("{") :])["Plan"])]
        of_events = [node for node in scans if node.get("Relation Name") == "events"]
        assert {node["Index Name"] for node in of_events} == {"events_pkey"}
        assert sum(node["Actual Rows"] * node["Actual Loops"] for node in of_events) <= 256 * 2 + 91, "of 10,000"


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)
