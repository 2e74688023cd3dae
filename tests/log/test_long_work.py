"""Long work: few pieces at once, in turns of tenants, and a rest for what took long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.log import turns
from gateway.log.turns import LongWork


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, as the work is told of them."""
    now = [100.0]
    monkeypatch.setattr("gateway.log.turns.time.monotonic", lambda: now[0])
    return now


async def do(work: LongWork, clock: list[float], tenant: str, seconds: float, done: list[str]) -> None:
    async with work.turn(tenant):
        await asyncio.sleep(0)
        clock[0] += seconds
        done.append(tenant)


async def test_turns_go_round_by_tenant(clock: list[float]) -> None:
    done: list[str] = []
    work = LongWork(1)
    await asyncio.gather(*[do(work, clock, tenant, 0.0, done) for tenant in ("ada", "ada", "ada", "bob")])
    assert done == ["ada", "ada", "bob", "ada"]
    assert work.waiting == 0


async def test_what_took_long_has_its_place_rest(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []

    def rest(seconds: float, give_back: Callable[[], None]) -> None:
        rests.append(seconds)
        give_back()

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", rest)
    work, done = LongWork(2), list[str]()
    for seconds in (0.0, turns.SHORT, 0.1, 60.0):
        await do(work, clock, "ada", seconds, done)
    assert rests == [pytest.approx(0.2), turns.LONGEST]
    assert len(done) == 4, "whoever asked has not waited for it"


async def test_a_place_is_given_back_whatever_becomes_of_the_work(clock: list[float]) -> None:
    work, done = LongWork(1), list[str]()
    with pytest.raises(RuntimeError):
        async with work.turn("ada"):
            raise RuntimeError
    held = asyncio.Event()

    async def hold() -> None:
        async with work.turn("ada"):
            await held.wait()

    holding, waiting = asyncio.create_task(hold()), asyncio.create_task(do(work, clock, "bob", 0.0, done))
    for _ in range(3):
        await asyncio.sleep(0)
    assert work.waiting == 1
    waiting.cancel()
    holding.cancel()
    await asyncio.gather(holding, waiting, return_exceptions=True)
    await do(work, clock, "eve", 0.0, done)
    assert done == ["eve"]
