"""Pages in memory: shared bytes, and never an answer that is older than its question."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from gateway.fanout.page_cache import Pages
from gateway.protocol.batch import Batch, Page, Stream
from gateway.protocol.errors import StreamNotFound


@dataclass
class Log:
    """One stream that answers when it is told to; its pages hold two events of five bytes."""

    tail: int = 0
    id: int = 1
    gone: bool = False
    asked: list[Page | None] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, path: str, position: int, *, known: Page | None = None) -> Page:
        self.asked.append(known)
        tail, gone = self.tail, self.gone
        await self.open.wait()
        if gone:
            raise StreamNotFound
        stream = Stream(self.id, path, "text/plain", tail, False)
        end = min(position + 2, tail)
        if known is not None and known.stream.id == self.id and known.batch.end == end:
            return Page(stream, Batch(position, end, known.batch.body, end == tail, False))
        return Page(stream, Batch(position, end, b"event" * (end - position), end == tail, False))


@pytest.fixture
def log() -> Log:
    return Log(tail=5)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_those_who_ask_together_share_one_look(log: Log) -> None:
    pages = Pages(log, 1000)
    asking = [asyncio.ensure_future(pages.read("s", 0)) for _ in range(5)]
    await settle()
    log.open.set()
    assert len({id((await one).batch.body) for one in asking}) == 1
    assert log.asked == [None]


async def test_nobody_joins_a_read_that_has_already_begun(log: Log) -> None:
    pages = Pages(log, 1000)
    early = asyncio.ensure_future(pages.read("s", 4))
    await settle()
    log.tail = 6  # acknowledged, and then asked for, by two
    late = [asyncio.ensure_future(pages.read("s", 4)) for _ in range(2)]
    await settle()
    log.open.set()
    assert (await early).batch.end == 5
    assert [(await one).batch.end for one in late] == [6, 6]
    assert len(log.asked) == 2


async def test_a_known_page_is_asked_for_with_what_is_known_of_it(log: Log) -> None:
    pages = Pages(log, 1000)
    log.open.set()
    first = await pages.read("s", 0)
    log.tail = 50
    again = await pages.read("s", 0)
    assert log.asked == [None, first]
    assert again.batch.body is first.batch.body
    assert again.stream.tail == 50


async def test_a_stream_that_was_deleted_is_not_there_at_once(log: Log) -> None:
    pages = Pages(log, 1000)
    log.open.set()
    await pages.read("s", 0)
    log.gone = True
    with pytest.raises(StreamNotFound):
        await pages.read("s", 0)


async def test_one_failed_look_fails_nobody_who_comes_after_it(log: Log) -> None:
    pages = Pages(log, 1000)
    log.gone = True
    early = asyncio.ensure_future(pages.read("s", 0))
    await settle()
    log.gone = False
    late = asyncio.ensure_future(pages.read("s", 0))
    log.open.set()
    with pytest.raises(StreamNotFound):
        await early
    assert (await late).batch.end == 2


async def test_memory_is_bounded_and_the_oldest_goes_first(log: Log) -> None:
    pages = Pages(log, 25)
    log.open.set()
    log.tail = 100
    for position in (0, 2, 0, 4):
        await pages.read("s", position)
        assert pages.bytes <= 25
    log.asked.clear()
    for position in (0, 4, 2):
        await pages.read("s", position)
    assert [known is not None for known in log.asked] == [True, True, False]


async def test_a_page_too_large_or_too_small_is_not_kept(log: Log) -> None:
    log.open.set()
    for most in (19, 512 * 11):
        pages = Pages(log, most)
        await pages.read("s", 0)
        await pages.read("s", 0)
        assert pages.bytes == 0
    assert log.asked == [None] * 4
