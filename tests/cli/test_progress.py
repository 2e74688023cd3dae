"""The last line of a terminal, by a clock of the test's own; and that nothing but a terminal is told."""

from __future__ import annotations

import asyncio
import io

import pytest

from gateway.cli.progress import Progress, progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(out: io.StringIO) -> list[str]:
    return out.getvalue().split("\r\x1b[K")[1:]


def test_what_takes_longer_tells_its_rate_and_the_time_left() -> None:
    out, clock = io.StringIO(), Clock()
    told = Progress("events", out, clock)
    told.whole = 100_000
    told.add(3_000)
    clock.now += 1.9
    told.add(3_000)
    assert shown(out) == []  # done soon, for all that is known
    clock.now += 0.1
    told.add(4_000)
    told.add(0)  # sooner than anybody reads
    clock.now += 2
    told.add(10_000)
    told.add(80_000)
    assert shown(out) == [
        "10,000 of 100,000 events, 5,000/s, 18 s left",
        "20,000 of 100,000 events, 5,000/s, 16 s left",
        "",
    ]
    clock.now += 60
    told.add(5)  # what comes live, when all of the past is there
    assert len(shown(out)) == 3


async def test_a_long_step_is_told_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.progress.AFTER", 0.0)
    told, out = Progress("migrations", screen := io.StringIO()), asyncio.Event()
    told.whole = 20
    monkeypatch.setattr(screen, "flush", out.set)
    async with told.ticking():
        await asyncio.wait_for(out.wait(), 60)
    assert shown(screen)[0].startswith("0 of 20 migrations, ")
    assert shown(screen)[0].endswith(" s so far")


def test_without_a_whole_there_is_a_rate() -> None:
    out, clock = io.StringIO(), Clock()
    told = Progress("bytes", out, clock)
    clock.now += 4
    told.add(2_000_000)
    told.end()
    told.end()
    assert shown(out) == ["2,000,000 bytes, 500,000/s", ""]


@pytest.mark.parametrize(
    ("err", "out", "beside", "told"),
    [
        (True, True, False, True),
        (True, True, True, False),
        (True, False, True, True),
        (False, True, False, False),
    ],
)
def test_only_a_terminal_is_told(
    monkeypatch: pytest.MonkeyPatch, err: bool, out: bool, beside: bool, told: bool
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("gateway.cli.progress.AFTER", 0.0)
    monkeypatch.setattr("gateway.cli.progress._BETWEEN", 0.0)
    monkeypatch.setattr(screen, "isatty", lambda: err, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: out)
    with progress("events", beside=beside) as line:
        line.add(1)
    assert bool(screen.getvalue()) is told
