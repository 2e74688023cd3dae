"""`python -m loadtests.relay`: delay, first token and CPU of streams that are asked for directly, through a gateway,
or by what others do: a proxy, and resumable-stream with Redis.

Every stream is checked: all of its frames, once, in order. The followers of `…+follower` are at another Machine or
server, one for each stream.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import click
import uvloop

from loadtests.bench.processes import machine_busy, memory
from loadtests.relay.askers import Seen, ask, follow
from loadtests.relay.lab import ALL, Way, lab

PATIENCE = 120.0  # seconds beyond the length of a stream
HEAD = (
    "| way | streams | frames/s each | first frame, ms, p50; p99 | delay of a frame, ms, p50; p99 | gap, ms, p50; p99"
    " | delay of a follower's, ms, p50; p99 | CPU, µs/frame | of that | kB/stream | machine busy | lost or wrong |\n"
    + "|---" * 12 + "|"
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One measurement. Times are milliseconds, CPU microseconds for each frame that was asked for, by its place."""

    first: tuple[float, float]
    delay: tuple[float, float]
    gap: tuple[float, float]
    followed: tuple[float, float] | None
    cpu: Mapping[str, float]
    kilobytes: float
    busy: float
    wrong: int

    @property
    def total(self) -> float:
        """CPU of everything."""
        return sum(self.cpu.values())


async def measure(way: Way, streams: int, rate: float, seconds: float, starts: float) -> Measured:
    """Asks for streams of `seconds` each, `starts` of them a second, at moments that have nothing to do with those of
    their frames: else all streams would have their frames at one time.
    """
    moments = random.Random(0)
    frames = int(rate * seconds)
    seen, followed = Seen(), Seen()
    idle = memory(way.pids)
    before, busy = {name: weigh() for name, weigh in way.weighed.items()}, machine_busy()
    ids = [f"{way.name}-{streams}-{rate:g}-{asyncio.get_running_loop().time()}-{n}" for n in range(streams)]
    askers, following = [], []
    began = asyncio.get_running_loop().time()
    for n, id in enumerate(ids):
        asker = await ask(way.port, seen, id, frames, rate)
        askers.append(asker)
        if way.returns:
            following.append(asyncio.ensure_future(_follow(asker.begun, way.returns, followed, id)))
        await asyncio.sleep(began + (n + moments.random()) / starts - asyncio.get_running_loop().time())
    await asyncio.sleep(seconds / 2)
    live = memory(way.pids)
    async with asyncio.timeout(seconds + PATIENCE):
        await asyncio.gather(*(asker.done for asker in askers), *following)
    total = streams * frames
    lost = total - seen.frames + (total - followed.frames if way.returns else 0)
    return Measured(
        _both(seen.firsts),
        _both(seen.delays),
        _both(seen.gaps),
        _both(followed.delays) if way.returns else None,
        {name: (weigh() - before[name]).total / total * 1e6 for name, weigh in way.weighed.items()},
        (live - idle) / streams / 1024,
        machine_busy().share_since(busy),
        seen.wrong + followed.wrong + lost,
    )


async def _follow(begun: asyncio.Future[None], port: int, seen: Seen, id: str) -> None:
    await begun
    await (await follow(port, seen, id)).done


def _both(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    cut = statistics.quantiles(values, n=100)
    return cut[49], cut[98]


def median(rounds: Sequence[Measured]) -> Measured:
    """Of each value its median; of memory the most, since the next round may use again what a stream has used."""

    def of(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
        p50, p99 = zip(*pairs, strict=True)
        return statistics.median(p50), statistics.median(p99)

    return Measured(
        of(each.first for each in rounds),
        of(each.delay for each in rounds),
        of(each.gap for each in rounds),
        of(each.followed or (0, 0) for each in rounds) if rounds[0].followed is not None else None,
        {name: statistics.median(each.cpu[name] for each in rounds) for name in rounds[0].cpu},
        max(each.kilobytes for each in rounds),
        statistics.median(each.busy for each in rounds),
        sum(each.wrong for each in rounds),
    )


def line(name: str, streams: int, rate: float, found: Measured) -> str:
    """A row of the table."""

    def shown(pair: tuple[float, float] | None) -> str:
        return "" if pair is None else f"{pair[0]:.3g}; {pair[1]:.3g}"

    parts = " + ".join(f"{part} {value:.0f}" for part, value in found.cpu.items())
    cells = [
        name, str(streams), f"{rate:g}",
        shown(found.first), shown(found.delay), shown(found.gap), shown(found.followed),
        f"{found.total:.0f}", parts, f"{found.kilobytes:.0f}", f"{found.busy:.0%}", str(found.wrong),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def beside(found: Mapping[str, Measured]) -> list[str]:
    """What the relay costs beside what resumable-stream and Redis add to an agent server in Node."""
    said: list[str] = []
    for name in ("", "+follower"):
        ours, theirs, plain = found.get(f"relay{name}"), found.get(f"resumable{name}"), found.get("node")
        if ours is not None and theirs is not None and plain is not None:
            added = theirs.total - plain.total
            said.append(
                f"relay{name}: {ours.total:.0f} µs a frame; resumable-stream and Redis add {added:.0f}"
                + (f": {ours.total / added:.2f} ×" if added > 0 else "")
            )
    return said


@click.command()
@click.option("--ways", default=",".join(ALL), help="What is measured.", show_default=True)
@click.option("--streams", default="1,100", help="Streams at the same time.", show_default=True)
@click.option("--rate", default="50", help="Frames a second of each.", show_default=True)
@click.option("--seconds", default=6.0, help="How long each stream takes.", show_default=True)
@click.option("--starts", default=50.0, help="How many are asked for in a second.", show_default=True)
@click.option("--rounds", default=1, help="How often; the table has the medians.", show_default=True)
def main(ways: str, streams: str, rate: str, seconds: float, starts: float, rounds: int) -> None:
    """Measure what the relay adds, on loopback."""
    uvloop.run(_main(ways.split(","), _numbers(streams), _numbers(rate), seconds, starts, rounds))


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",")]


async def _main(
    names: Sequence[str], streams: Sequence[int], rates: Sequence[int], seconds: float, starts: float, rounds: int
) -> None:
    async with lab() as started:
        ways: list[Way] = []
        for name in names:
            way = await started.way(name)
            if isinstance(way, str):
                click.echo(f"{name} is left out, for want of {way}.")
                continue
            await measure(way, 5, 50, 1, starts)  # once, so that nothing is measured that happens once
            ways.append(way)
        click.echo(HEAD)
        for count in streams:
            for rate in rates:
                found: dict[str, list[Measured]] = {way.name: [] for way in ways}
                for _ in range(rounds):
                    for way in ways:
                        found[way.name].append(await measure(way, count, rate, seconds, starts))
                medians = {name: median(each) for name, each in found.items()}
                for name, each in medians.items():
                    click.echo(line(name, count, rate, each))
                for said in beside(medians):
                    click.echo(said)


if __name__ == "__main__":
    main()
