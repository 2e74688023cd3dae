"""Background tasks are ended together, and a failure of one of them is not lost."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from gateway.outage import Outage
from gateway.protocol.errors import Unavailable
from gateway.tasks import FEW, LARGE, LITTLE, WOKEN, Bell, end, forever, in_its_turn, in_turns, kept, together, wake


async def test_tasks_have_ended_when_end_returns() -> None:
    farewells = []

    async def wait(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            farewells.append(name)

    tasks = [asyncio.create_task(wait(name)) for name in "ab"]
    await asyncio.sleep(0)
    await end(tasks[0], None, tasks[1])
    assert farewells == ["a", "b"]
    await end(*tasks)
    await end(None)


async def test_a_tasks_failure_is_raised_when_the_others_have_ended() -> None:
    async def fail() -> None:
        raise ConnectionError("it went")

    failed, other = asyncio.create_task(fail()), asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError, match="it went"):
        await end(failed, other)
    assert other.cancelled()


async def test_what_has_ended_is_said_at_once_and_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    begun = asyncio.Semaphore(0)
    times = 0

    async def run() -> None:
        nonlocal times
        times += 1
        begun.release()
        if times == 1:
            raise ConnectionError("it went")
        if times == 3:
            await asyncio.Event().wait()

    async with asyncio.timeout(30):
        task = kept("the part", run, again=0)
        for _ in range(3):
            await begun.acquire()
        await end(task)
    assert [record.getMessage() for record in caplog.records] == [
        "the part has failed; it is begun again.",
        "the part has ended, and should not have; it is begun again.",
    ]


async def test_where_one_part_fails_to_start_the_others_are_ended() -> None:
    ended = []

    async def fail() -> None:
        raise ConnectionError("it went")

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(ConnectionError, match="it went"):
        await together(wait(), fail())
    assert ended == [True]


async def test_a_step_that_fails_keeps_none_from_being_done(caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Semaphore(0)
    steps = iter([Unavailable(), Unavailable(), None, ZeroDivisionError(), None, None])

    async def step() -> None:
        fault = next(steps, None)
        done.release()
        if fault is not None:
            raise fault

    caplog.set_level("INFO")
    outage = Outage(logging.getLogger("test"), "It begins (%r).", "It ends.")
    async with asyncio.timeout(30):
        task = asyncio.create_task(forever("The step", step, lambda: 0, outage))
        for _ in range(6):
            await done.acquire()
        await end(task)
    said = [record.getMessage() for record in caplog.records if record.name in ("test", "gateway.tasks")]
    assert said == ["It begins (None).", "It ends.", "The step failed unexpectedly; the next turn tries again."]


async def test_a_bell_cuts_a_pause_short_and_rings_once() -> None:
    done = asyncio.Semaphore(0)
    bell = asyncio.Event()

    async def step() -> float:
        done.release()
        return 3600

    async with asyncio.timeout(30):
        task = asyncio.create_task(forever("The step", step, lambda: 3600, bell=bell, late=True))
        await asyncio.sleep(0)
        assert done.locked()
        bell.set()
        await done.acquire()
        assert not bell.is_set()
        bell.set()
        await done.acquire()
        await end(task)


TURN = [0]


async def pieces(number: int, count: int, done: list[tuple[int, int]], size: int | None = None) -> int:
    """Work of so many pieces; `done` has the turn of the loop in which each was done."""

    def work() -> Generator[None, None, int]:
        for _ in range(count):
            done.append((number, TURN[0]))
            yield
        return number

    return await in_turns(work(), size)


@contextmanager
def counting() -> Iterator[None]:
    """In the block, TURN goes on with each turn of the loop."""
    loop = asyncio.get_running_loop()

    def turn() -> None:
        TURN[0] += 1
        handles.append(loop.call_soon(turn))

    handles = [loop.call_soon(turn)]
    try:
        yield
    finally:
        handles[-1].cancel()


async def test_little_work_does_not_wait_for_much_work() -> None:
    much: list[tuple[int, int]] = []
    little: list[tuple[int, int]] = []
    with counting():
        works = [asyncio.create_task(pieces(number, 100, much, LITTLE + 1)) for number in range(10)]
        await asyncio.sleep(0)
        began = TURN[0]
        await asyncio.gather(*[pieces(number, 2, little, LITTLE) for number in range(3 * FEW)])
        ended = TURN[0]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
    assert ended - began <= 4 * 3, "a few turns, and not one for each piece, behind ten others"
    assert max(Counter(turn for _, turn in little).values()) <= FEW
    assert max(Counter(turn for _, turn in much).values()) == 1


async def test_no_two_pieces_of_work_share_a_turn() -> None:
    done: list[tuple[int, int]] = []
    with counting():
        works = [asyncio.create_task(pieces(number, 5, done)) for number in range(20)]
        assert await asyncio.gather(*works) == list(range(20))
    assert len({turn for _, turn in done}) == len(done) == 100
    assert [number for number, _ in done[1:21]] == list(range(20))  # in the order in which they came


async def test_work_that_is_given_up_holds_up_no_other() -> None:
    done: list[tuple[int, int]] = []
    works = [asyncio.create_task(pieces(number, 3, done)) for number in range(9)]
    await asyncio.sleep(0)
    for work in works[::2]:
        work.cancel()
    assert await asyncio.gather(*works[1::2]) == [1, 3, 5, 7]
    await asyncio.gather(*works[::2], return_exceptions=True)


async def test_what_work_raises_holds_up_no_other() -> None:
    def faulty() -> Generator[None, None, None]:
        yield
        raise Unavailable

    with pytest.raises(Unavailable):
        await in_turns(faulty())
    assert await pieces(7, 2, []) == 7


async def test_a_crowd_that_is_woken_goes_on_a_few_in_each_turn() -> None:
    went_on: list[tuple[int, int]] = []
    loop = asyncio.get_running_loop()
    turn = 0

    def count() -> None:
        nonlocal turn
        turn += 1
        if len(went_on) < 900:
            loop.call_soon(count)

    async def wait(number: int, future: asyncio.Future[None]) -> None:
        await future
        went_on.append((number, turn))

    futures = [loop.create_future() for _ in range(1_000)]
    waiting = [asyncio.create_task(wait(number, future)) for number, future in enumerate(futures)]
    await asyncio.sleep(0)
    for task in waiting[::10]:
        task.cancel()
    loop.call_soon(count)
    for future in futures:
        wake(future)
    await asyncio.gather(*waiting, return_exceptions=True)
    assert [number for number, _ in went_on] == [number for number in range(1_000) if number % 10]
    assert max(Counter(turn for _, turn in went_on).values()) <= WOKEN
    assert turn >= 900 // WOKEN


async def test_large_steps_of_a_crowd_are_fewer_in_each_turn() -> None:
    """And those who are woken do not wait for them."""
    went_on: list[int] = []

    async def step(times: int) -> None:
        await in_its_turn(times)
        went_on.append(times)

    future = asyncio.get_running_loop().create_future()
    waiting = [asyncio.create_task(step(1 + number % 10)) for number in range(500)]
    await asyncio.sleep(0)
    waiting[400].cancel()
    wake(future)
    assert future.done()
    most, done = sum(went_on), len(went_on)
    while len(went_on) < 499:
        await asyncio.sleep(0)
        most, done = max(most, sum(went_on[done:])), len(went_on)
    assert most <= LARGE + 9, "the last of a turn may be a large one"


async def test_a_few_that_are_woken_go_on_in_the_next_turn() -> None:
    future = asyncio.get_running_loop().create_future()
    wake(future)
    assert future.done()


async def test_a_thousand_bells_have_few_tasks_go_on_in_one_turn() -> None:
    bells = [Bell() for _ in range(10 * WOKEN)]
    went_on: list[int] = []

    async def wait(number: int) -> None:
        await bells[number].wait()
        went_on.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(len(bells))]
    await asyncio.sleep(0)
    for bell in bells:
        bell.ring()
    before, most = 0, 0
    while len(went_on) < len(bells):
        await asyncio.sleep(0)
        before, most = len(went_on), max(most, len(went_on) - before)
    assert went_on == [*range(len(bells))]
    assert most <= WOKEN
    await asyncio.gather(*tasks)


async def test_a_bell_that_has_rung_keeps_nobody_until_it_is_cleared() -> None:
    bell = Bell()
    bell.ring()
    await bell.wait()
    bell.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await bell.wait()
    bell.ring()  # of the one who has gone nothing is left
    await bell.wait()
