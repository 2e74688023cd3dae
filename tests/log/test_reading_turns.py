"""Turns go round by tenant, and none is lost, whoever leaves when."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.log.turns import Turns


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_tenants_line_is_not_anothers_wait() -> None:
    turns, given = Turns(2), list[str]()

    async def read(tenant: str) -> None:
        await turns.take(tenant)
        given.append(tenant)

    waiting = [asyncio.create_task(read(tenant)) for tenant in "aaaaaaaabc"]
    await settled()
    assert given == ["a", "a"]
    assert turns.waiting == 8
    for _ in range(8):
        turns.give_back()
        await settled()
    assert "".join(given[2:]) == "abcaaaaa"
    await asyncio.gather(*waiting)
    assert turns.waiting == 0


@pytest.mark.parametrize("seed", range(20))
async def test_no_turn_is_lost_or_given_twice(seed: int) -> None:
    rng, turns, under_way, most = random.Random(seed), Turns(3), 0, 0

    async def read(tenant: str) -> None:
        nonlocal under_way, most
        await turns.take(tenant)
        under_way += 1
        most = max(most, under_way)
        try:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        finally:
            under_way -= 1
            turns.give_back()

    tasks = [asyncio.create_task(read(rng.choice("abcd"))) for _ in range(60)]
    while not all(task.done() for task in tasks):
        rng.choice(tasks).cancel()
        await asyncio.sleep(0)
    assert (under_way, most, turns.waiting) == (0, 3, 0)
    for _ in range(3):
        await asyncio.wait_for(turns.take("a"), 1)


async def test_a_turn_that_comes_as_its_reader_leaves_is_passed_on() -> None:
    turns = Turns(1)
    await turns.take("a")
    leaving, staying = (asyncio.create_task(turns.take(tenant)) for tenant in "ab")
    await settled()
    turns.give_back()
    leaving.cancel()
    await settled()
    assert leaving.cancelled() and staying.done() and not staying.cancelled()
