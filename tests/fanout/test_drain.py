"""A drain ends everybody: those who follow, and those who were about to."""

from __future__ import annotations

from gateway.fanout.deadlines import SETTLED, TICK
from gateway.fanout.follower import Follower, Signal
from gateway.fanout.hub import Hub
from tests.fanout.test_hub import Log


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


async def nothing(*_: object) -> dict[str, tuple[int, int, bool]]:
    return {}


def hub_of(clock: Clock) -> Hub:
    return Hub(
        read=Log(3).live,
        positions=nothing,
        touch=nothing,  # type: ignore[arg-type]
        now=lambda: 1_800_000_000,
        clock=clock,
        heartbeat=15,
        sweep_interval=lambda: 1,
    )


async def test_who_was_still_reading_when_the_drain_began_is_ended_too() -> None:
    clock = Clock()
    hub = hub_of(clock)
    with Follower(hub, "run") as follower:
        await follower.begin(0)
        hub.drain(8)
        follower.expire(60)
        clock.time += SETTLED + 2 * TICK
        hub.tick()
        assert await follower.next() is Signal.OVER


async def test_a_drain_of_a_few_takes_no_longer_than_they_need() -> None:
    clock = Clock()
    hub = hub_of(clock)
    with Follower(hub, "run") as follower:
        await follower.begin(0)
        follower.expire(60)
        hub.drain(8)
        clock.time += SETTLED + 2 * TICK
        hub.tick()
        assert await follower.next() is Signal.OVER


async def test_a_drain_spares_newcomers_for_a_second() -> None:
    clock = Clock()
    hub = hub_of(clock)
    hub.drain(8)
    assert hub.deadlines.time_for(60) == SETTLED
    clock.time += 7.5
    assert hub.deadlines.time_for(60) == 0.5
    assert not hub.drained
    clock.time += 1
    assert hub.deadlines.time_for(60) == 0
    assert hub.drained
