"""Another server takes over: what is appended then has positions that no lost event can have had."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest

from gateway.protocol.append import Producer
from gateway.protocol.create import Fork
from gateway.protocol.errors import ForkOffsetBeyondTail, OffsetGone
from gateway.protocol.offset import events_between, format_offset, same_epoch
from tests.log.rig import Log, connected, opened


async def take_over(database_url: str) -> None:
    """As the log sees it: the server that answers is not the one that was asked last, nor the one that wrote."""
    async with connected(database_url) as other:
        await other.execute("UPDATE run_gateway.server SET postmaster = 'epoch', system = coalesce(system, 0) - 1")
        await other.execute("UPDATE run_gateway.streams SET served = 'epoch'")


async def alone(log: Log, path: str, events: list[bytes]) -> int:
    return (await log.append(path, *events)).tail


async def by_a_producer(log: Log, path: str, events: list[bytes]) -> int:
    name = f"producer {events[0].decode()}"
    return (await log.append(path, *events, producer=Producer(name, 0, 0))).tail


async def in_sql(log: Log, path: str, events: list[bytes]) -> int:
    async with log.database.acquire() as connection:
        for event in events:
            tail = await connection.fetchval("SELECT run_gateway.append_event($1, $2)", path, event.decode())
    assert isinstance(tail, int)
    return tail


async def among_others(log: Log, path: str, events: list[bytes]) -> int:
    """Two streams in one statement."""
    n = len(events)
    async with log.database.acquire() as connection:
        tails = await connection.fetchval(
            "SELECT tails FROM run_gateway.append_plain(ARRAY['other', $1], 'application/json', $2, $3, $4, $5)",
            path,
            n,
            [2] * n + [1] * n,
            [*range(1, n + 1), *range(1, n + 1)],
            [*events, *events],
        )
    return int(tails[1])


async def in_a_batch(log: Log, path: str, events: list[bytes]) -> int:
    n = len(events)
    async with log.database.acquire() as connection:
        tails = await connection.fetchval(
            "SELECT tails FROM run_gateway.append_batch(ARRAY[$1], '{application/json}', $2, '{f}', NULL, NULL,"
            " NULL, NULL, $3, $4, $5, NULL)",
            path,
            [n],
            [1] * n,
            [*range(1, n + 1)],
            events,
        )
    return int(tails[0])


WAYS: list[Callable[[Log, str, list[bytes]], Awaitable[int]]] = [
    alone,
    by_a_producer,
    in_sql,
    among_others,
    in_a_batch,
]


@pytest.mark.parametrize("seed", range(6))
async def test_every_offset_names_one_event_for_ever(database_url: str, seed: int) -> None:
    chance = random.Random(seed)
    async with opened(database_url, page_bytes=chance.choice([20, 1000])) as log:
        await log.create("other")
        path = "a"
        await log.create(path)
        given = [0]  # the position after so many events, each as it was told when its event was appended
        lost: dict[int, int] = {}  # positions that readers of another server had, and how much of it is here
        for _ in range(30):
            if chance.random() < 0.3:
                for n in range(1, 4):  # it had some more events
                    lost.setdefault(given[-1] + n, len(given) - 1)
                await take_over(database_url)
            count = chance.choice([1, 1, 2, 5, 40])
            events = [b"%d" % n for n in range(len(given), len(given) + count)]
            tail = await chance.choice(WAYS)(log, path, events)
            assert tail not in lost
            given += [tail - count + n for n in range(1, count + 1)]
            lost = {position: common for position, common in lost.items() if position not in given}
            assert given == sorted(given)
            if chance.random() < 0.2:
                async with log.database.acquire() as connection:
                    await connection.execute(
                        "SELECT run_gateway.pack_page(id, 100, 10, 2) FROM run_gateway.streams WHERE path = $1", path
                    )
        assert len({format_offset(position) for position in given}) == len(given)
        everything = [b"%d" % n for n in range(1, len(given))]
        for n in chance.sample(range(len(given)), 20):
            assert await log.content(path, given[n]) == b",".join(everything[n:])
            page = await log.reader.live(path, given[n], recent=chance.choice([0, 30, 10**6]))
            batch = page.batch
            assert batch.start <= given[n] <= batch.end and page.stream.tail == given[-1]
            first = given.index(batch.start)
            assert batch.body == b",".join(everything[first : first + events_between(batch.start, batch.end)])
            assert batch.end == given[first + events_between(batch.start, batch.end)]
            assert all(same_epoch(position, batch.end) for position in given[first + 1 : given.index(batch.end)])
            known = await log.reader.read(path, given[n])
            assert await log.reader.read(path, given[n], known=known) == known
            latest = (await log.reader.read(path, 0, last_events=len(given) - 1 - n)).batch
            assert latest.start == given[n]
        assert lost
        for position, common in lost.items():
            with pytest.raises(OffsetGone) as refused:
                await log.reader.read(path, position)
            assert dict(refused.value.headers)[b"stream-next-offset"] == format_offset(given[common])
            with pytest.raises(ForkOffsetBeyondTail):
                await log.create("fork", fork=Fork(path, position, 0))

        # A fork has the positions of its source, and from there on its own.
        cut = chance.randrange(len(given))
        await log.create("fork", fork=Fork(path, given[cut], 0))
        own = (await log.append("fork", b"1", b"2")).tail
        expected = b",".join([*everything[:cut], b"1", b"2"])
        assert await log.content("fork") == expected and own > given[cut]
        assert await log.content("fork", given[cut]) == b"1,2"


async def test_the_end_of_the_log_is_told_to_who_is_beyond_it(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("a")
        tail = (await log.append("a", b"1", b"2")).tail
        for position in (tail + 1, 2**40 + 1, 2**62 - 1):
            with pytest.raises(OffsetGone) as refused:
                await log.reader.read("a", position)
            told = dict(refused.value.headers)[b"stream-next-offset"]
            assert told == format_offset(tail if position < 2**40 else 0), "of an unknown epoch nothing is shared"


async def test_a_stream_that_was_lost_is_not_taken_for_the_next(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("first")
        await take_over(database_url)
        async with connected(database_url) as other:
            await other.execute("SELECT run_gateway.identify()")  # as every connection does that is opened
        await log.create("a", body=b"[1,2,3]")
        page = await log.reader.read("a", 0)
        assert page.batch.body == b"1,2,3" and page.batch.end > 2**40
        with pytest.raises(OffsetGone):
            await log.reader.read("a", 2)  # of a stream at that path which only the other server had
        assert page.stream.id > 10**6, "nor has it that one's number"


async def test_a_page_that_is_remembered_is_not_of_a_lost_epoch(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("a")
        await log.append("a", b"1", b"2")
        known = await log.reader.read("a", 0)
        async with connected(database_url) as other:
            await other.execute("UPDATE run_gateway.streams SET tail = 1; DELETE FROM run_gateway.events WHERE seq = 2")
        await take_over(database_url)
        await log.append("a", b"3")
        first = await log.reader.read("a", 0, known=known)
        assert (first.batch.body, first.batch.up_to_date) == (b"1", False)
        assert (await log.reader.read("a", first.batch.end)).batch.body == b"3"


async def test_an_operator_may_begin_an_epoch(database_url: str) -> None:
    """After a restore that the server cannot know of: what is appended then is told from what was lost."""
    async with opened(database_url) as log, connected(database_url) as other:
        await log.create("a")
        tail = (await log.append("a", b"1", b"2")).tail
        seen = await other.fetchval("SELECT incarnation FROM run_gateway.server")
        epoch = await other.fetchval("SELECT run_gateway.new_epoch()")
        assert await other.fetchval("SELECT run_gateway.new_epoch($1)", seen) == epoch, "it is another one already"
        after = (await log.append("a", b"3")).tail
        assert (tail, after) == (2, epoch << 40 | 3)
        with pytest.raises(OffsetGone):
            await log.reader.read("a", 3)
        assert await log.content("a", tail) == b"3"
        assert await other.fetchval("SELECT run_gateway.new_epoch(incarnation) FROM run_gateway.server") > epoch
