"""What the relay's bench makes of its measurements; and that its ways are whole."""

from __future__ import annotations

import asyncio

from loadtests.relay.__main__ import Measured, beside, line, measure, median
from loadtests.relay.lab import lab


def found(*cpu: float, kilobytes: float = 0.0, followed: tuple[float, float] | None = None) -> Measured:
    """A measurement with so much CPU for each frame."""
    places = {f"p{n}": each for n, each in enumerate(cpu)}
    return Measured((1, 2), (cpu[0], 9), (20, 30), followed, places, kilobytes, 0.5, 0)


def test_of_several_rounds_each_value_is_its_median() -> None:
    rounds = [found(1, 10, kilobytes=5, followed=(3, 4)), found(9, 2, followed=(5, 6)), found(2, 3, followed=(4, 9))]
    middle = median(rounds)
    assert middle.cpu == {"p0": 2, "p1": 3}
    assert (middle.delay, middle.followed) == ((2, 9), (4, 6))
    assert middle.kilobytes == 5


def test_beside_stands_what_others_add_to_an_agent_server() -> None:
    said = beside({"relay": found(30), "node": found(20), "resumable": found(25, 15), "relay+follower": found(60)})
    assert said == ["relay: 30 µs a frame; resumable-stream and Redis add 20: 1.50 ×"]


def test_nothing_that_others_add_is_no_ratio() -> None:
    assert beside({"relay": found(30), "node": found(20), "resumable": found(19)}) == [
        "relay: 30 µs a frame; resumable-stream and Redis add -1"
    ]


def test_a_row_of_the_table_names_each_place() -> None:
    cells = [cell.strip() for cell in line("relay", 3, 50, found(30, 12)).split("|")]
    assert cells[1:4] == ["relay", "3", "50"]
    assert "p0 30 + p1 12" in cells


async def test_every_frame_of_each_way_is_counted() -> None:
    async with lab() as started, asyncio.timeout(120):
        for name in ("direct", "relay+follower"):
            way = await started.way(name)
            assert not isinstance(way, str)
            seen = await measure(way, streams=3, rate=50, seconds=0.2, starts=50)
            assert seen.wrong == 0
            assert (seen.followed is None) == (name == "direct")
