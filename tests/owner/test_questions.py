"""The database is asked who owns a key once: not by each of many at a time, nor again within a second."""

from __future__ import annotations

import asyncio

import pytest

from gateway.owner.known import FRESH, Known
from gateway.owner.questions import Questions
from gateway.owner.rules import Owned
from gateway.protocol.errors import Unavailable

KEY, OURS, THEIRS = b"key", Owned(1, 7), Owned(2, 8)


class Asked:
    """The database, which answers when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self.known = Known(lambda: self.now)
        self.questions = Questions(self.known)
        self.answers: list[asyncio.Future[Owned | None]] = []

    async def ask(self) -> Owned | None:
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    def begin(self, taker: int | None = None) -> asyncio.Task[Owned | None]:
        return asyncio.create_task(self.questions(KEY, taker, self.ask))


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_of_a_hundred_at_once_one_asks() -> None:
    asked = Asked()
    those = [asked.begin() for _ in range(100)]
    await turn()
    those[0].cancel()  # the client of the one that asks has gone
    await turn()
    (answer,) = asked.answers
    answer.set_result(OURS)
    assert await asyncio.gather(*those[1:]) == [OURS] * 99
    assert asked.known.get(KEY, 1) == OURS


async def test_who_would_own_asks_for_itself() -> None:
    """To learn that nobody has a key is another question than to take it."""
    asked = Asked()
    reader, writer, other = asked.begin(), asked.begin(taker=1), asked.begin(taker=1)
    await turn()
    assert len(asked.answers) == 2
    asked.answers[0].set_result(None)
    asked.answers[1].set_result(OURS)
    assert [await each for each in (reader, writer, other)] == [None, OURS, OURS]


async def test_what_was_doubted_meanwhile_is_not_believed() -> None:
    """A key is passed on while somebody asks who has it: the answer may be from before."""
    asked = Asked()
    before = asked.begin()
    await turn()
    asked.questions.doubt(KEY)
    asked.known.doubt(KEY)
    after = asked.begin()
    await turn()
    asked.answers[0].set_result(OURS)
    await before
    assert asked.known.get(KEY, 1) is None
    assert not after.done()
    asked.answers[1].set_result(THEIRS)
    assert await after == asked.known.get(KEY, 1) == THEIRS


async def test_all_who_wait_are_told_of_an_outage_once() -> None:
    asked = Asked()
    those = [asked.begin() for _ in range(3)]
    await turn()
    asked.answers[0].set_exception(Unavailable())
    for each in those:
        with pytest.raises(Unavailable):
            await each
    again = asked.begin()
    await turn()
    asked.answers[1].set_result(OURS)
    assert await again == OURS


async def test_nobody_is_asked_again_within_a_second() -> None:
    asked = Asked()
    asked.known.note(KEY, THEIRS)
    asked.now += 0.9 * FRESH
    assert asked.known.get(KEY, 1) == THEIRS
    asked.now += 0.2 * FRESH
    assert asked.known.get(KEY, 1) is None
    asked.known.note(KEY, OURS)
    asked.now += 1000 * FRESH
    assert asked.known.get(KEY, 1) == OURS  # our own life: whoever ends it says so
    asked.known.doubt_all()
    assert asked.known.get(KEY, 1) is None and asked.known.last(KEY) == OURS
