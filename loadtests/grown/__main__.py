"""`python -m loadtests.grown`: what a database that has grown costs, beside one with little in it."""

from __future__ import annotations

import asyncio
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import click

from gateway.embedded import binaries, server
from gateway.log.migrations import migrate
from gateway.process.machine import Machine
from loadtests.bench.lab import compile_tool
from loadtests.bench.postgres import Postgres
from loadtests.grown.fill import Shape, fill
from loadtests.grown.measures import GOAL, MEASURES, Measure, Taken
from loadtests.grown.places import Place
from loadtests.grown.upkeep import UPKEEP, Disturbed, disturb

SMALL: Final = 2_000  # runs of the other place
SLOW: Final = 100  # milliseconds that no statement may take but those that a person starts
# A server for a database of this size has more memory than the embedded one asks for.
SERVER: Final = {"shared_buffers": "1GB", "max_wal_size": "8GB"}
# No housekeeping but what is measured, and no new connection in the middle of it, each of which comes with a heartbeat.
ENVIRONMENT: Final = {
    "GATEWAY_LOG_LEVEL": "warning", "GATEWAY_HOUSEKEEPING_INTERVAL": "3600", "GATEWAY_HEARTBEAT": "600",
}  # fmt: skip
BIG: Final = ("streams", "events", "pages", "runs", "producers", "leases", "expiries", "subscription_links")
SCANS: Final = "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname = ANY ($1)"
SIZES: Final = """
    SELECT relname, pg_total_relation_size(oid) FROM pg_class
     WHERE relnamespace = 'run_gateway'::regnamespace AND relkind = 'r' AND relname = ANY ($1) ORDER BY 2 DESC
"""


def tell(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


class Report:
    """What was found, as lines of Markdown."""

    def __init__(self) -> None:
        self.taken: dict[Measure, list[tuple[Taken, Taken]]] = {measure: [] for measure in MEASURES}
        self.disturbed: list[tuple[str, Disturbed]] = []
        self.notes: list[str] = []

    def lines(self, shapes: Sequence[Shape]) -> Iterator[str]:
        small, grown = shapes
        yield f"| what | {small.events:,} events | {grown.events:,} events | ratio (range) | goal | reached | its CPU |"
        yield "|---|---|---|---|---|---|---|"
        for measure, taken in self.taken.items():
            few, many = ([one.value for one in column] for column in zip(*taken, strict=True))
            ratio, told = _ratio(zip(many, few, strict=True) if measure.more else zip(few, many, strict=True))
            yield (
                f"| {measure.name} | {figure(few)} {measure.unit} | {figure(many)} {measure.unit} | {told}"
                f" | ≤ {GOAL} × | {'yes' if ratio <= GOAL else '**no**'} | {_cpu(taken)} |"
            )
        yield ""
        yield "| beside appends | place | it came to | append p50 before, during | p99 before, during |"
        yield "|---|---|---|---|---|"
        for place, found in self.disturbed:
            (a, b), (c, d) = found.before, found.during
            yield f"| {found.name} | {place} | {found.figure} | {a:.2f}, {c:.2f} ms | {b:.1f}, {d:.1f} ms |"
        yield ""
        yield from self.notes


def figure(values: Iterable[float]) -> str:
    """Their median, in three digits."""
    value = statistics.median(values)
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _ratio(pairs: Iterable[tuple[float, float]]) -> tuple[float, str]:
    """The median of the ratios of the second to the first, and what is told of it."""
    ratios = sorted(b / a for a, b in pairs)
    ratio = statistics.median(ratios)
    return ratio, f"{ratio:.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"


def _cpu(taken: Sequence[tuple[Taken, Taken]]) -> str:
    a, b = ([one.cpu for one in column] for column in zip(*taken, strict=True))
    return f"{figure(a)} and {figure(b)} ms: {_ratio(zip(a, b, strict=True))[1]}"


@asynccontextmanager
async def places(folder: Path, shapes: Sequence[Shape], report: Report) -> AsyncIterator[list[Place]]:
    """Both databases, filled, in one server, each with a Machine."""
    server.SETTINGS.update(SERVER)
    writers = await compile_tool("writers", folder)
    dumper = next(path for each in binaries.binary_folders() if (path := each / "pg_dump").exists())
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(Postgres(folder / "postgres"))
        await postgres.execute(f"ALTER SYSTEM SET log_min_duration_statement = '{SLOW}ms'")
        await postgres.execute("ALTER SYSTEM SET log_line_prefix = '%m %d %a '")
        found: list[Place] = []
        for name, shape in zip(("small", "grown"), shapes, strict=True):
            url = await postgres.create()
            await migrate(url)
            began = time.perf_counter()
            await fill(url, shape, tell)
            report.notes.append(f"{shape.events:,} events in {shape.runs:,} runs: {time.perf_counter() - began:.0f} s")
            found.append(Place(name, url, shape, writers, dumper, Machine({"DATABASE_URL": url, **ENVIRONMENT})))
        await postgres.execute("SELECT pg_reload_conf()")
        for place in found:
            await place.machine.launch()
            stack.push_async_callback(place.machine.kill)
        yield found


async def measure(folder: Path, shapes: Sequence[Shape], rounds: int, upkeep: bool) -> Report:
    report = Report()
    async with places(folder, shapes, report) as (small, grown):
        async with grown.connected() as look:
            for table, size in await look.fetch(SIZES, BIG):
                report.notes.append(f"{table}: {size / 1e6:,.0f} MB, {size / grown.shape.events:.2f} bytes an event")
            scans = {table: count for table, count in await look.fetch(SCANS, BIG)}  # noqa: C416  (records are no pairs)
            for one in MEASURES * rounds:
                taken = await _in_turn(one, small, grown)
                report.taken[one].append(taken)
                values = " and ".join(f"{each.value:.4g} ({each.cpu:.4g} ms)" for each in taken)
                tell(f"{one.name} (its CPU): {values} {one.unit}")
            await look.execute("SELECT pg_stat_clear_snapshot()")
            await asyncio.sleep(2)  # until all sessions have told theirs
            after = {table: count for table, count in await look.fetch(SCANS, BIG)}  # noqa: C416
        read = [table for table in BIG if after[table] > scans[table]]
        report.notes.append(f"Tables that were read from end to end meanwhile: {', '.join(read) or 'none'}.")
        log = folder / "postgres" / "postgres.log"
        report.notes += slow(log, "measures")
        if upkeep:
            for name in UPKEEP:
                mark = log.stat().st_size
                for place in (small, grown):
                    report.disturbed.append((place.name, await disturb(place, name)))
                    tell(str(report.disturbed[-1]))
                report.notes += slow(log, name, mark)
    return report


async def _in_turn(measure: Measure, small: Place, grown: Place) -> tuple[Taken, Taken]:
    """Of each twice, so that a machine that becomes busier meanwhile favours neither."""
    first, second, third, fourth = [await measure.take(place) for place in (small, grown, grown, small)]
    return _mean(first, fourth), _mean(second, third)


def _mean(a: Taken, b: Taken) -> Taken:
    return Taken((a.value + b.value) / 2, (a.cpu + b.cpu) / 2)


def slow(log: Path, when: str, mark: int = 0) -> list[str]:
    """The statements that took longer than SLOW while both Machines served, as the server's log has them, and where.

    What is slow in the small one, too, waits for the machine.
    """
    with log.open(errors="replace") as lines:
        lines.seek(mark)
        text = lines.read()
    found = re.findall(r"bench_(\d) \S* LOG:  duration: ([\d.]+) ms  (?:execute \S+|statement):\s+(.{0,60})", text)
    worst: dict[tuple[str, str], list[float]] = {}
    for number, took, statement in found:
        if not statement.startswith(
            ("VACUUM", "COPY", "CREATE", "CHECKPOINT", "ALTER", "DROP", "UPDATE run_gateway.leases")
        ):
            worst.setdefault((" ".join(statement.split()), "small" if number == "1" else "grown"), []).append(
                float(took)
            )
    return [
        f"{when}: over {SLOW} ms {len(took)} times, {max(took):.0f} ms, in the {place} one: `{said}`"
        for (said, place), took in sorted(worst.items())
    ]


@click.command(help=__doc__)
@click.option("--runs", default=1_000_000, show_default=True, type=click.IntRange(SMALL))
@click.option("--events", default=100_000_000, show_default=True, type=click.IntRange(SMALL))
@click.option(
    "--rounds",
    default=3,
    show_default=True,
    type=click.IntRange(1, 3),
    help="Three wake all silent runs of the small one.",
)
@click.option("--upkeep/--no-upkeep", default=True, show_default=True, help="What comes beside appends.")
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="For the data, which goes at the end.")
def main(runs: int, events: int, rounds: int, upkeep: bool, folder: Path | None) -> None:
    shapes = (Shape(SMALL, events // runs), Shape(runs, events // runs))
    with tempfile.TemporaryDirectory(prefix="run-gateway-grown-", dir=folder) as name:
        Path(name).chmod(0o755)  # Postgres may be another user
        free = shutil.disk_usage(name).free
        if free < events * 150:
            raise click.ClickException(f"{free / 1e9:.0f} GB are free there; {events * 150 / 1e9:.0f} GB are needed.")
        report = asyncio.run(measure(Path(name), shapes, rounds, upkeep))
    click.echo("\n".join(report.lines(shapes)))


if __name__ == "__main__":
    main()
