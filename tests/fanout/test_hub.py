"""How many reads of the log a crowd costs."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import pytest

from gateway.fanout import comparison
from gateway.fanout.follower import Follower, Receiver, Signal
from gateway.fanout.hub import BEATS, Hub
from gateway.fanout.multiplex import Multiplex
from gateway.fanout.page_cache import Pages
from gateway.fanout.tail import Tail
from gateway.protocol import frames
from gateway.protocol.batch import Batch, News, Page, Stream
from gateway.protocol.errors import Unavailable
from gateway.tasks import WOKEN
from tests.servers import until

EVENT = b'{"token":"hello"}'


class Log:
    """A run of any length whose reads take a while: until the next turn of whoever turns them."""

    def __init__(self, tail: int) -> None:
        self.tail = tail
        self.id = 1
        self.closed = False
        self.reads = 0
        self.page = 1000
        self.ttl: int | None = None

    async def live(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page:
        self.reads += 1
        id, tail, closed = self.id, self.tail, self.closed
        for _ in range(5):
            await asyncio.sleep(0)
        start = max(position - min(recent // len(EVENT), 128), 0) if 0 <= tail - position < 256 else position
        end = max(min(start + self.page, tail), start)
        count = end - start
        body = b",".join([EVENT] * count)
        batch = Batch(start, end, body, end >= tail, end >= tail and closed, [len(EVENT)] * count)
        return Page(Stream(id, path, "application/json", tail, closed, self.ttl), batch)


def hub_of(log: Log, sweep_interval: float = 1, there: dict[str, tuple[int, int, bool]] | None = None) -> Hub:
    async def nothing(*_: object) -> dict[str, tuple[int, int, bool]]:
        return there or {}

    return Hub(
        read=log.live,
        positions=nothing,
        touch=nothing,  # type: ignore[arg-type]
        now=lambda: 1_800_000_000,
        clock=lambda: 0,
        heartbeat=15,
        sweep_interval=lambda: sweep_interval,
    )


@contextmanager
def followers(hub: Hub, count: int) -> Iterator[list[Follower]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Follower(hub, "run")) for _ in range(count)]


async def test_a_storm_costs_a_read_or_two_while_the_run_goes_on() -> None:
    log = Log(5000)
    hub = hub_of(log)
    chance = random.Random(1)
    with followers(hub, 100) as crowd:
        entering = []
        for follower in crowd:
            entering.append(asyncio.ensure_future(follower.begin(log.tail - chance.randrange(100))))
            if chance.random() < 0.5:
                log.tail += 1
                hub.ring(News("run", log.tail, log.tail, body=EVENT))
            await asyncio.sleep(0)
        pages = await asyncio.gather(*entering)
        assert log.reads <= 2
        for follower, page in zip(crowd, pages, strict=True):
            assert page.batch.body == b",".join([EVENT] * (page.batch.end - page.batch.start))
            assert follower.position == page.batch.end <= log.tail
        assert hub.tails["run"].position == log.tail, "what came meanwhile did not have to be read"


async def test_a_reader_far_behind_costs_the_others_nothing() -> None:
    log = Log(5000)
    hub = hub_of(log)
    with followers(hub, 100) as crowd:
        entering = [asyncio.ensure_future(crowd[0].begin(0))]
        await asyncio.sleep(0)
        entering += [asyncio.ensure_future(follower.begin(4900 + n)) for n, follower in enumerate(crowd[1:])]
        await asyncio.gather(*entering)
        assert log.reads == 2
        assert crowd[0].position == 1000


async def test_the_next_reader_of_a_followed_run_costs_no_read_at_all() -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 50) as crowd:
        await crowd[0].begin(60)
        for n, follower in enumerate(crowd):
            page = await follower.begin(100 - n)
            assert (page.batch.start, page.batch.end, page.batch.up_to_date) == (100 - n, 100, True)
        assert log.reads == 1


async def test_news_that_names_more_than_it_holds_is_read_at_once() -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 1) as (follower,):
        entering = asyncio.ensure_future(follower.begin(100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        log.tail = 110
        hub.ring(News("run", 101, 110))
        page = await entering
        assert page.batch.end == 100, "the read had begun before"
        batch = await follower.next()
        assert isinstance(batch, Batch)
        assert (batch.start, batch.end) == (100, 110)


async def until_read(log: Log, reads: int) -> None:
    """Until that many reads have begun: the last of them has seen how long the log is."""
    async with asyncio.timeout(60):
        while log.reads < reads:  # noqa: ASYNC110  turns are what this log's reads take
            await asyncio.sleep(0)


async def rest(follower: Follower, end: int) -> None:
    """Follows up to a position. Nobody sweeps."""
    async with asyncio.timeout(60):
        while follower.position < end:
            assert isinstance(await follower.next(), Batch)


async def test_what_is_told_of_while_a_gap_is_read_is_read_at_once_too() -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 1) as (follower,):
        await follower.begin(100)
        for last in (101, 102, 103):  # none of which a notification had room for
            log.tail = last
            hub.ring(News("run", last, last))
            await until_read(log, 2)
        await rest(follower, 103)
        assert log.reads <= 3


async def test_a_gap_is_not_filled_by_a_read_that_began_before_it() -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 1) as (follower,):
        await follower.begin(100)
        somebodys = asyncio.ensure_future(hub.read("run", 100))
        await until_read(log, 2)
        log.tail = 101
        hub.ring(News("run", 101, 101))
        await rest(follower, 101)
        assert (await somebodys).batch.empty


@pytest.mark.parametrize("count", [1, 50])
async def test_a_read_from_before_the_news_keeps_it_from_nobody(count: int) -> None:
    """The read is a newcomer's, of a stream with a TTL; what comes meanwhile is more than a tail remembers."""
    log = Log(10)
    log.ttl, log.page = 60, 100_000
    hub = hub_of(log)
    with ExitStack() as stack, followers(hub, count + 1) as (newcomer, *crowd):
        many = [stack.enter_context(Multiplex(hub, 3600)) for _ in range(count)]
        for follower, reader in zip(crowd, many, strict=True):
            await follower.begin(10)
            reader.follow("run", 0, 10)
            assert await reader.next() != []
        readers: list[Follower | Multiplex] = [*crowd, *many]
        waiting = [asyncio.ensure_future(reader.next()) for reader in readers]
        await until(lambda: len(hub.tails["run"].waiting) == 2 * count)
        entering = asyncio.ensure_future(newcomer.begin(10))
        reads = log.reads
        for _ in range(3):
            await asyncio.sleep(0)
        assert log.reads == reads + 1, "it is under way"
        log.tail += 10_000
        hub.ring(News("run", 11, log.tail, body=b",".join([EVENT] * 10_000)))
        for given in await asyncio.wait_for(asyncio.gather(*waiting), 5):
            batch = given if isinstance(given, Batch) else cast("Any", given)[0][1]
            assert batch.end == log.tail
        await entering
        assert log.reads <= reads + 2, "the newcomer's, and one that all others share"


async def test_news_behind_a_gap_that_is_being_read_costs_no_read() -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 1) as (follower,):
        await follower.begin(100)
        for last in range(101, 110):
            log.tail = last
            hub.ring(News("run", last, last, body=None if last == 101 else EVENT))
            await until_read(log, 2)
        await rest(follower, 109)
        assert log.reads == 2


async def test_an_end_that_one_reader_has_found_is_told_to_all_at_once() -> None:
    log = Log(5000)
    hub = hub_of(log)
    with followers(hub, 2) as (first, second):
        await first.begin(5000)
        waiting = asyncio.ensure_future(first.next())
        log.closed = True
        await second.begin(4000)
        async with asyncio.timeout(60):
            batch = await waiting
        assert isinstance(batch, Batch)
        assert (batch.empty, batch.closed, first.position) == (True, True, 5000)


@pytest.mark.parametrize("found", [(2, 100, False), (2, 3, False), (2, 200, True), None])
async def test_the_sweep_ends_readers_of_a_replaced_stream(
    found: tuple[int, int, bool] | None,
) -> None:
    """Nobody has told of it, and its tail may be anywhere: none of its events may come behind the old ones."""
    hub = hub_of(Log(100), there={} if found is None else {"run": found})
    with followers(hub, 1) as (follower,):
        await follower.begin(100)
        waiting = asyncio.ensure_future(follower.next())
        await asyncio.sleep(0)
        await hub.sweep()
        async with asyncio.timeout(60):
            assert await waiting is Signal.OVER
        assert not hub.tails, "whoever comes next finds the new one"


async def test_a_deleted_closed_stream_is_forgotten_despite_readers() -> None:
    log = Log(100)
    log.closed = True
    hub = hub_of(log, there={"run": (1, 100, True)})
    with followers(hub, 2) as (slow, next_one):
        await slow.begin(0)
        await hub.sweep()
        assert (await next_one.begin(0)).batch.closed
        assert log.reads == 1
        hub.comparison._positions = hub_of(log).comparison._positions
        await hub.sweep()
        assert not hub.tails


@pytest.mark.parametrize("found_by", ["a reader", "a read up"])
async def test_a_read_that_finds_another_stream_ends_the_old_readers(found_by: str) -> None:
    log = Log(5000)
    hub = hub_of(log)
    with followers(hub, 2) as (first, second):
        await first.begin(5000)
        waiting = asyncio.ensure_future(first.next())
        await asyncio.sleep(0)
        if found_by == "a reader":
            log.id, log.tail = 2, 4500  # shorter: nothing else would be noticed
            await second.begin(4400)
        else:
            log.id, log.tail = 2, 6000
            hub.ring(News("run", 5001, 6000))
        async with asyncio.timeout(60):
            assert await waiting is Signal.OVER
        assert first.position == 5000
        assert not hub.tails


async def test_a_reader_cancelled_while_waiting_leaves_nothing_behind() -> None:
    hub = hub_of(Log(100))
    with followers(hub, 1) as (other,):
        with followers(hub, 1) as (follower,):
            await other.begin(100)
            await follower.begin(100)
            waiting = asyncio.ensure_future(follower.next())
            await asyncio.sleep(0)
            assert hub.tails["run"].waiting == {follower}
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert not hub.tails["run"].waiting
        assert hub.tails["run"].users == 1
    assert not hub.tails


async def test_a_log_that_cannot_be_read_is_logged_once_and_its_return(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "gateway.fanout.hub")
    hub = hub_of(Log(100), sweep_interval=0.001)
    answers, done = [*[False] * 5, *[True] * 5], asyncio.Event()

    async def positions(paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        if not answers:
            done.set()
        elif not answers.pop(0):
            raise Unavailable
        return dict.fromkeys(paths, (1, 100, False))

    hub.comparison._positions = positions
    with followers(hub, 1) as (follower,):
        await follower.begin(100)
        running = asyncio.create_task(hub.run())
        async with asyncio.timeout(60):
            await done.wait()
        assert caplog.messages == [
            "The log cannot be read (None); followers wait until it can.",
            "The log can be read again.",
        ]
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("here", [True, False])
async def test_nobody_begins_with_the_events_of_an_expired_stream(here: bool) -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 2) as (old, new):
        await old.begin(100)
        waiting = asyncio.ensure_future(old.next())
        await asyncio.sleep(0)
        log.id, log.tail = 2, 3
        if here:
            hub.created("run")
        else:
            hub.ring(News("run", 0, 0))
        page = await new.begin(0)
        assert (page.stream.id, page.batch.end) == (2, 3)
        async with asyncio.timeout(60):
            assert await waiting is Signal.OVER
        assert not hub.tails, "whoever comes next finds the new one"


async def test_a_first_read_never_mixes_a_stream_and_its_successor() -> None:
    log = Log(5)
    hub = hub_of(log)
    with followers(hub, 1) as (old,):
        entering = asyncio.ensure_future(old.begin(0))
        await until_read(log, 1)
        log.id, log.tail = 2, 5
        hub.ring(News("run", 0, 0))
        log.tail = 6
        hub.ring(News("run", 6, 6, body=EVENT))
        assert (await entering).batch.end == 5
        async with asyncio.timeout(60):
            assert await old.next() is Signal.OVER
        assert not hub.tails


async def test_news_of_a_streams_creation_does_not_disturb_its_reader() -> None:
    log = Log(1)
    hub = hub_of(log)
    with followers(hub, 2) as (early, late):
        await early.begin(1)
        waiting = asyncio.ensure_future(early.next())
        await asyncio.sleep(0)
        hub.created("run")
        await until_read(log, 2)
        log.tail = 2
        hub.ring(News("run", 2, 2, body=EVENT))
        async with asyncio.timeout(60):
            assert isinstance(batch := await waiting, Batch)
            assert (batch.start, batch.end) == (1, 2)
            while hub.tails["run"].filling:  # noqa: ASYNC110  turns are what this log's reads take
                await asyncio.sleep(0)
        reads = log.reads
        assert (await late.begin(1)).batch.end == 2
        assert log.reads == reads, "it is known to be the right one, so newcomers begin from memory again"


async def test_where_deletions_are_heard_late_newcomers_read_the_log() -> None:
    log = Log(100)
    hub = hub_of(log)
    hub._trusted = lambda: False
    with followers(hub, 2) as (first, second):
        await first.begin(100)
        log.id, log.tail = 2, 3
        page = await second.begin(0)
        assert (page.stream.id, page.batch.end) == (2, 3)


async def test_where_deletions_are_heard_late_memory_serves_in_outages() -> None:
    hub = hub_of(Log(100))
    hub._trusted = lambda: False
    with followers(hub, 2) as (first, second):
        await first.begin(100)

        async def away(*_: object) -> Page:
            raise Unavailable

        hub.read._read = away  # type: ignore[assignment]
        assert (await second.begin(50)).batch.end == 100


@pytest.mark.parametrize("ttl", [1, 60])
async def test_a_stream_with_a_reader_is_kept_from_expiring_in_time(ttl: int) -> None:
    """One of a second as well; and one whose reader is still far from the tail."""
    log = Log(5000)
    log.ttl = ttl
    hub = hub_of(log, sweep_interval=3600)
    now, touched, kept = 0.0, 0.0, asyncio.Event()

    async def touch(paths: Iterable[str]) -> None:
        nonlocal touched
        assert list(paths) == ["run"]
        assert now - touched < ttl - 0.3, "a touch takes some time, too"
        touched = now
        kept.set()

    hub._touch, hub._clock = touch, lambda: now
    with followers(hub, 1) as (follower,):
        await follower.begin(0)
        for _ in range(3):
            kept.clear()
            while not kept.is_set():
                now += 0.25
                hub.tick()
                for _ in range(3):
                    await asyncio.sleep(0)
    kept.clear()
    now += 3600
    hub.tick()
    await asyncio.sleep(0)
    assert not kept.is_set(), "nobody reads it any more"


def test_one_that_does_not_end_keeps_no_other_from_ending() -> None:
    class Member:
        slot = 0

        def __init__(self, fault: Exception | None) -> None:
            self.fault = fault
            self.said: list[str] = []

        def end(self) -> None:
            if self.fault is not None:
                raise self.fault
            self.said.append("end")

        def fail(self) -> None:
            self.said.append("fail")

    hub = hub_of(Log(100))
    members = [Member(RuntimeError("no") if n % 2 else None) for n in range(6)]
    for member in members:
        hub.deadlines.schedule(member, 0)
    hub._clock = lambda: 3600
    hub.tick()
    assert [member.said for member in members] == [["end"], ["fail"]] * 3


async def test_a_defect_ends_neither_the_sweeps_nor_the_timer(caplog: pytest.LogCaptureFixture) -> None:
    hub = hub_of(Log(100), sweep_interval=0.001)
    defects, swept = [RuntimeError("no"), TypeError("nor this")], asyncio.Event()

    async def positions(paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        if defects:
            raise defects.pop()
        swept.set()
        return {}

    def now() -> float:
        if not timers:
            timers.append(hub)
            raise RuntimeError("what time is it?")
        return 1_800_000_000

    timers: list[Hub] = []
    hub.comparison._positions = positions
    with followers(hub, 1) as (follower,):
        await follower.begin(100)
        hub._now = now
        running = asyncio.create_task(hub.run())
        async with asyncio.timeout(20):
            await swept.wait()
            while not any("timer" in message for message in caplog.messages):  # noqa: ASYNC110  a log tells nobody
                await asyncio.sleep(0.01)
            while hub.tails:  # noqa: ASYNC110  nor do tails
                await asyncio.sleep(0.01)
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])
    assert any("comparison" in message for message in caplog.messages)  # of one kind, one line a second


# Nobody sweeps here: what these find is found at once, and not within a second


async def test_an_end_without_an_event_is_told_by_its_news() -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 1) as (follower,):
        await follower.begin(100)
        log.closed = True
        hub.ring(News("run", 101, 100, closed=True, body=b""))
        async with asyncio.timeout(60):
            batch = await follower.next()
        assert isinstance(batch, Batch)
        assert (batch.empty, batch.closed, log.reads) == (True, True, 1)


async def test_a_reader_ahead_of_the_log_holds_nobody_up() -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 2) as (ahead, other):
        await ahead.begin(150)
        await other.begin(100)
        waiting = asyncio.ensure_future(other.next())
        async with asyncio.timeout(60):
            while other not in hub.tails["run"].waiting:  # noqa: ASYNC110  turns are what this log's reads take
                await asyncio.sleep(0)
        log.tail = 101
        hub.ring(News("run", 101, 101, body=EVENT))
        async with asyncio.timeout(60):
            assert isinstance(batch := await waiting, Batch)
        assert (batch.start, batch.end, ahead.position) == (100, 101, 150)


async def test_a_position_that_the_log_does_not_have_is_not_waited_for() -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 2) as (first, second):
        await first.begin(100)
        hub.ring(News("run", 101, 120))
        await until_read(log, 2)
        async with asyncio.timeout(60):
            while hub.tails["run"].filling:  # noqa: ASYNC110  turns are what this log's reads take
                await asyncio.sleep(0)
        assert (await second.begin(100)).batch.up_to_date, "this is all that there is"


async def test_a_write_of_unknown_outcome_is_looked_for_at_once() -> None:
    log = Log(100)
    hub = hub_of(log)
    with followers(hub, 1) as (follower,):
        await follower.begin(100)
        log.tail = 101
        hub.look_again(["run", "one that nobody follows"])
        await rest(follower, 101)


async def test_cursors_go_with_the_time() -> None:
    hub = hub_of(Log(100))
    with followers(hub, 1) as (follower,):
        before = hub.cursor(follower.tail)
        hub._now = lambda: 1_800_000_000 + 3600
        hub.tick()
        assert hub.cursor(follower.tail) > before


async def test_a_client_gone_before_its_follower_leaves_none_behind() -> None:
    class Gone:
        follower: Receiver | None = None

        def lost(self) -> bool:
            return True

        def fileno(self) -> int:
            return -1

        def send(self, data: bytes) -> int:
            raise OSError

        def write(self, data: bytes | memoryview) -> None: ...

        def writable(self) -> bool:
            return True

        def abort(self) -> None: ...

        async def drain(self) -> None: ...

    hub = hub_of(Log(100))
    with Follower(hub, "run", Gone()) as follower:
        await follower.begin(100)
        async with asyncio.timeout(60):
            assert await follower.next() is Signal.OVER
    assert not hub.tails


async def test_hints_lead_to_one_question_at_a_time() -> None:
    log, asked, answer = Log(1), list[list[str]](), asyncio.Event()
    hub = hub_of(log)

    async def positions(paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        asked.append(list(paths))
        await answer.wait()
        return {"run": (1, log.tail, False)}

    hub.comparison._positions = positions
    with followers(hub, 1) as (follower,):
        await follower.begin(0)
        reads = log.reads
        hub.hint(News("run", 1, 1))
        hub.hint(News("nobody's", 7, 7))
        await asyncio.sleep(0)
        assert not asked, "what is known, and what nobody follows, is not asked for"
        log.tail = 2
        for number in range(1000):
            hub.hint(News("run", 2, 2 + number, closed=number % 2 == 1, deleted=number % 3 == 1))
            await asyncio.sleep(0)
        assert asked == [["run"]]
        answer.set()
        batch = await follower.next()
        assert isinstance(batch, Batch)
        assert (batch.start, batch.end) == (1, 2), "what is there is read, and nothing else is believed"
        assert not hub.tails["run"].ended
        async with asyncio.timeout(60):
            while hub.comparison._looking is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert asked == [["run"]] * 2
        assert log.reads <= reads + 2


async def test_a_hint_while_a_reader_begins_is_looked_into_afterwards() -> None:
    log = Log(1)
    hub = hub_of(log, there={"run": (1, 2, False)})
    with followers(hub, 1) as (follower,):
        beginning = asyncio.ensure_future(follower.begin(0))
        while not log.reads:  # noqa: ASYNC110
            await asyncio.sleep(0)
        log.tail = 2
        hub.hint(News("run", 2, 2))
        assert (await beginning).batch.end == 1
        batch = await follower.next()
        assert isinstance(batch, Batch)
        assert (batch.start, batch.end) == (1, 2)


async def test_heartbeats_of_many_streams_give_way_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    beaten: list[str] = []
    monkeypatch.setattr(Tail, "beat", lambda tail, _: beaten.append(tail.path))
    hub = hub_of(Log(0))
    for number in range(2 * BEATS + 1):
        hub.follow(f"run-{number}")
    hub._clock = lambda: 3600
    turns = 0
    for _ in hub.ticking():
        turns += 1
        assert len(beaten) == turns * BEATS
    assert (turns, len(beaten)) == (2, 2 * BEATS + 1)


async def test_who_followed_a_stream_before_it_was_made_reads_nothing() -> None:
    log = Log(0)
    hub = hub_of(log)
    tail = hub.follow("run")
    hub.ring(News("run", 1, 1, body=EVENT))  # it is told of by its writer before its maker says so
    hub.made(tail, Stream(1, "run", "application/json", 0, False))
    hub.ring(News("run", 2, 2, body=EVENT))
    with followers(hub, 1) as (follower,):
        assert (await follower.begin(0)).batch == Batch(0, 2, EVENT + b"," + EVENT, True, False)
    assert log.reads == 0


async def test_a_stream_said_to_be_new_moves_no_tail_that_was_read() -> None:
    log = Log(3)
    hub = hub_of(log)
    with followers(hub, 1) as (follower,):
        await follower.begin(0)
        hub.made(follower.tail, Stream(1, "run", "application/json", 0, False))
        assert follower.tail.position == 3


async def test_of_a_new_stream_what_no_news_has_brought_is_read() -> None:
    log = Log(2)
    hub = hub_of(log)
    tail = hub.follow("run")
    hub.ring(News("run", 2, 2, body=EVENT))
    hub.made(tail, Stream(1, "run", "application/json", 0, False))
    with followers(hub, 1) as (follower,):
        page = await follower.begin(0)
        batch = page.batch if page.batch.end else await follower.next()
        assert isinstance(batch, Batch)
        assert batch.end == 2
    assert log.reads == 1


async def test_the_sweep_asks_for_some_tails_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "COMPARED", 3)
    hub = hub_of(Log(1))
    asked: list[int] = []

    async def positions(paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        found = list(paths)
        asked.append(len(found))
        return dict.fromkeys(found, (1, 2, False))  # one more than is known here

    hub.comparison._positions = positions
    with ExitStack() as stack:
        for number in range(10):
            await stack.enter_context(Follower(hub, f"run{number}")).begin(0)
        await hub.sweep()
        assert asked == [3, 3, 3, 1]
        assert hub.comparison.missed == 10, "none is left out"


@pytest.mark.parametrize("how", ["told", "closed", "deleted"])
async def test_a_crowd_goes_on_a_few_in_each_turn_of_the_loop(how: str) -> None:
    log = Log(5)
    hub = hub_of(log)
    turn, went_on = 0, Counter[int]()

    async def count() -> None:
        nonlocal turn
        while went_on.total() < 500:
            turn += 1
            await asyncio.sleep(0)

    async def follow(follower: Follower) -> None:
        await follower.begin(0)
        await follower.next()
        went_on[turn] += 1

    with followers(hub, 500) as crowd:
        following = [asyncio.create_task(follow(follower)) for follower in crowd]
        await until(lambda: hub.followers["following"] == 500)
        hub.ring(News("run", 6, 6, how == "closed", how == "deleted", body=EVENT))
        async with asyncio.timeout(60):
            await asyncio.gather(count(), *following)
    assert max(went_on.values()) <= WOKEN


async def test_a_crowd_that_shares_a_read_goes_on_a_few_in_each_turn() -> None:
    log = Log(5)
    pages = Pages(log, 1 << 20)  # type: ignore[arg-type]
    log.read = lambda path, position, known=None: log.live(path, position)  # type: ignore[attr-defined]
    turn, had = 0, Counter[int]()

    async def count() -> None:
        nonlocal turn
        while had.total() < 500:
            turn += 1
            await asyncio.sleep(0)

    async def read() -> None:
        await pages.read("run", 0)
        had[turn] += 1

    async with asyncio.timeout(60):
        await asyncio.gather(*(read() for _ in range(500)), count())
    assert log.reads <= 2
    assert max(had.values()) <= WOKEN + 1  # the one who reads is woken by the log


async def test_a_long_text_is_told_in_pieces_and_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: of a text that is nothing but line breaks, so many become lines at once."""
    made: list[int] = []
    turn = 0
    in_pieces = frames.sse_in_pieces

    def counted(*arguments: Any, **more: Any) -> Generator[None, None, list[bytes]]:
        making = in_pieces(*arguments, **more)
        try:
            while True:
                made.append(turn)
                next(making)
                yield
        except StopIteration as end:
            return list(end.value)

    async def count() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(frames, "sse_in_pieces", counted)
    hub = hub_of(Log(0))
    page = Page(Stream(1, "run", "text/plain", 0, False), Batch(0, 0, b"", True, False))
    with Follower(hub, "run") as follower:
        hub.observe(follower.tail, page)
        receiver = Taking()
        follower.tail.direct.join(follower, receiver)
        counting = asyncio.create_task(count())
        hub.ring(News("run", 1, 1, body=b"\n" * (1 << 20)))
        hub.ring(News("run", 2, 2, body=b"behind"))
        assert not receiver.received, "nothing of it is made at once"
        await until(lambda: follower.tail.position == 2)
        counting.cancel()
    assert len(made) >= (1 << 20) // frames.PIECE
    assert len(set(made)) == len(made), "each piece has a turn of its own"
    assert receiver.received.count(b"data:\n") + 1 >= 1 << 20
    assert receiver.received.index(b"data:behind") > receiver.received.rindex(b"data:\n")


class Taking:
    """A connection that takes everything."""

    def __init__(self) -> None:
        self.received = b""
        self.follower: Receiver | None = None

    def fileno(self) -> int:
        return -1

    def send(self, data: bytes) -> int:
        self.received += data
        return len(data)

    def lost(self) -> bool:
        return False

    def write(self, data: bytes | memoryview) -> None:
        raise AssertionError("it takes everything")

    def writable(self) -> bool:
        return True

    def abort(self) -> None:
        raise AssertionError("nothing fails")

    async def drain(self) -> None:
        raise AssertionError("it is never full")


async def test_news_of_many_streams_told_together_is_counted_once_sent() -> None:
    clock = iter((1.0, 1.0, 3.0))
    hub = hub_of(Log(0))
    for path in ("a", "b"):
        hub.observe(
            hub.follow(path), Page(Stream(1, path, "application/json", 0, False), Batch(0, 0, b"", True, False))
        )
        hub.tails[path].direct.join(cast("Any", object()), cast("Any", Taking()))
    hub._clock = lambda: next(clock)
    with hub.together():
        for path in ("a", "b"):
            hub.ring(News(path, 1, 1, body=EVENT, heard=0.5))
        assert hub.delivery_seconds.total == 0
    assert (hub.delivered, hub.delivery_seconds.total) == (2, 2 * 2.5)
