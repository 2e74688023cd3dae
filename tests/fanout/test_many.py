"""Readers of many streams, over a log, a network and streams in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import pytest

from gateway.fanout.hub import Hub
from gateway.fanout.multiplex import LARGE, READS, Multiplex
from gateway.protocol.batch import LINE, Batch, Page, Stream
from tests.fanout.simulated import Connection
from tests.fanout.simulation_of_many import SimulationOfMany


@pytest.mark.parametrize("block", range(10))
async def test_each_stream_comes_once_and_in_order_in_any_run(block: int) -> None:
    for seed in range(block * 30, block * 30 + 30):
        simulation = SimulationOfMany(seed)
        await simulation.run(150)
        for reader in simulation.readers:
            if not simulation.sockets.fragile and simulation.limits.sse_max_age > 1000:
                assert reader.connections <= 3, f"seed {seed}: it only went on since it came back"
            assert reader.ended, f"seed {seed}: a reader was not told of every end"
            for path in reader.paths:
                events = len(simulation.logs.streams[path].events)
                assert reader.given[path] == list(range(1, len(reader.given[path]) + 1)), f"seed {seed}: {path}"
                if path not in simulation.logs.deleted:
                    assert reader.over[path] == "closed", f"seed {seed}"
                    assert len(reader.given[path]) == events, f"seed {seed}: {path} lacks events"
        assert not simulation.hub.tails, f"seed {seed}: a tail was left behind"


class Pages:
    """Streams of three pages each, read at once; `asked` has the reads in their order."""

    def __init__(self, size: int = LINE) -> None:
        self.size = size
        self.asked: list[tuple[str, int]] = []
        self.under_way = self.most = 0

    async def read(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page:
        self.asked.append((path, position))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        end = min(position + 1, 3)
        body = b'"%b"' % (b"x" * self.size) if end > position else b""
        return Page(Stream(1, path, "application/json", 3, True), Batch(position, end, body, end == 3, end == 3))

    async def nothing(self, paths: Iterable[str]) -> None: ...

    async def positions(self, paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        return dict.fromkeys(paths, (1, 3, True))


async def test_turns_go_round_and_few_pages_are_held() -> None:
    log = Pages()
    hub = Hub(
        read=log.read, positions=log.positions, touch=log.nothing, now=lambda: 0, clock=lambda: 0.0, heartbeat=9,
        sweep_interval=lambda: 9,
    )  # fmt: skip
    paths = [f"runs/{n}" for n in range(10)]
    with Multiplex(hub, 60) as reader:
        for place, path in enumerate(paths):
            reader.follow(path, place, 0)
        given: list[str] = []
        while len(given) < 30:
            some = await reader.next()
            assert isinstance(some, list)
            assert sum(len(what.body) for _, what in some if isinstance(what, Batch)) < 2 * LINE + 10
            assert sum(followed.took is not None for followed in reader.followed) <= READS
            given += [followed.path for followed, _ in some]
            for followed, what in some:
                if isinstance(what, Batch) and what.closed:
                    reader.unfollow(followed)
    assert log.most <= READS
    for turn in range(3):
        assert {path for path, position in log.asked if position == turn} == set(paths)
        assert sorted(given[turn * 10 : turn * 10 + 10]) == sorted(paths), "nobody waits until another is done"
    assert not hub.tails


async def test_nothing_is_fetched_for_a_reader_that_does_not_read() -> None:
    log = Pages()
    hub = Hub(
        read=log.read, positions=log.positions, touch=log.nothing, now=lambda: 0, clock=lambda: 0.0, heartbeat=9,
        sweep_interval=lambda: 9,
    )  # fmt: skip
    connection = Connection(random.Random(1))
    with Multiplex(hub, 60, connection) as reader:
        for place in range(5):
            reader.follow(f"runs/{place}", place, 0)
        connection.fill()
        waiting = asyncio.ensure_future(reader.next())
        await asyncio.sleep(0.01)
        assert not log.asked and not waiting.done()
        connection.empty()
        assert await waiting


@pytest.mark.parametrize("turns", [10, 0], ids=["held", "being read"])
async def test_no_large_page_is_held_for_who_reads_nothing(turns: int) -> None:
    """It is read again, and nothing is lost or given twice. `turns` of the loop pass until the connection is full."""
    log = Pages(LARGE)
    hub = Hub(
        read=log.read, positions=log.positions, touch=log.nothing, now=lambda: 0, clock=lambda: 0.0, heartbeat=9,
        sweep_interval=lambda: 9,
    )  # fmt: skip
    connection = Connection(random.Random(1))
    ends: dict[str, list[int]] = {f"runs/{place}": [] for place in range(5)}
    with Multiplex(hub, 60, connection) as reader:
        for place, path in enumerate(ends):
            reader.follow(path, place, 0)
        while reader.followed:
            given = await reader.next()
            assert isinstance(given, list)
            for followed, what in given:
                assert isinstance(what, Batch)
                ends[followed.path].append(what.end)
                if what.closed:
                    reader.unfollow(followed)
            del given
            await settle(turns)
            connection.fill()
            waiting = asyncio.ensure_future(reader.next())
            await settle(10)
            asked = len(log.asked)
            await settle(10)
            assert len(log.asked) == asked, "nothing is read for it"
            assert all(followed.took is None for followed in reader.followed)
            waiting.cancel()
            connection.empty()
    assert all(each == [1, 2, 3] for each in ends.values())
    assert not hub.tails


async def settle(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
