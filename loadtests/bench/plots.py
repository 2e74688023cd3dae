"""`python -m loadtests.bench.plots FILE --into FOLDER`: the two plots, from the JSON of a run of the bench.

The run is `python -m loadtests.bench --only latency,throughput --json FILE`. Needs matplotlib, of the extra `load`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import click
import matplotlib as mpl

from loadtests.bench.goals import OURS
from loadtests.bench.results import Results, Sample
from loadtests.bench.stats import Summary

mpl.use("Agg")  # files, and no window

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

# Short names; the order is the one of the legend.
NAMES = {
    "gateway": "run gateway (durable)",
    "floor": "kernel floor (C)",
    "nchan": "Nchan (C, keeps nothing)",
    "fastapi": "FastAPI + queues (keeps nothing)",
    "reference": "reference server, in memory",
    "reference-files": "reference server, files",
    "bare-asgi": "bare uvicorn (keeps nothing)",
    "flue": "Flue's append path (durable)",
}
SIZE = (7.5, 4.5)


@click.command()
@click.argument("file", type=click.File())
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Folder of the PNGs.")
def main(file: IO[str], into: Path) -> None:
    """Draw latency against readers and throughput against connections from the JSON in FILE."""
    written = json.load(file)
    results = Results([Sample(**sample) for sample in written["samples"]])
    machine = written["machine"]
    where = f"{written['date']}, {machine['cores']} cores, {machine['processor']}"
    into.mkdir(parents=True, exist_ok=True)
    drawings = (
        ("latency", "p50_ms", "readers of one run", "ms from append to frame, p50", "latency.png"),
        ("throughput", "per_s", "connections", "one-event appends acknowledged a second", "throughput.png"),
    )
    for scenario, value, x, y, name in drawings:
        if scenario in results.scenarios():
            draw(results, scenario, value, (x, y, where), into / name)
            click.echo(into / name)


def draw(results: Results, scenario: str, value: str, words: tuple[str, str, str], path: Path) -> None:
    """One plot: a line for each peer, with the range of its rounds."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    present = results.peers(scenario)
    for peer in (name for name in NAMES if name in present):
        _line(axes, peer, points(results, scenario, peer, value))
    x, y, where = words
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    axes.set_title(where, fontsize=8, loc="right")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def points(results: Results, scenario: str, peer: str, value: str) -> list[tuple[int, Summary]]:
    """`per_s_64` and its like as pairs of 64 and the rounds, in ascending order."""
    found = []
    for name in results.values(scenario):
        base, _, count = name.rpartition("_")
        if base == value and (summary := results.summary(scenario, peer, name)) is not None:
            found.append((int(count), summary))
    return sorted(found, key=lambda point: point[0])


def _line(axes: Axes, peer: str, found: list[tuple[int, Summary]]) -> None:
    style: dict[str, Any] = {"linewidth": 2.5, "zorder": 3} if peer == OURS else {"linewidth": 1.2}
    x = [count for count, _ in found]
    (line,) = axes.plot(x, [summary.median for _, summary in found], marker="o", label=NAMES[peer], **style)
    low, high = [summary.low for _, summary in found], [summary.high for _, summary in found]
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


if __name__ == "__main__":
    main()
