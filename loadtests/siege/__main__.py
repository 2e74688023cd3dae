"""`python -m loadtests.siege`: abuse by one tenant while another one works; exit code 1 when that was not withstood."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import click

from loadtests.siege.attacks import ATTACKS, TITLES
from loadtests.siege.harness import Plan, besiege

_ROWS = "Only these rows of issue 13's table, separated by commas: " + "; ".join(f"{n}, {t}" for n, t in TITLES.items())


def _rows(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...]:
    if value is None:
        return tuple(ATTACKS)
    try:
        rows = tuple(int(row) for row in value.split(","))
    except ValueError:
        rows = (0,)
    if not set(rows) <= set(ATTACKS):
        raise click.BadParameter(f"rows are numbers from {min(ATTACKS)} to {max(ATTACKS)}")
    return rows


@click.command()
@click.option("--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="How long abuse goes on.")
@click.option("--machines", type=click.IntRange(1), default=1, show_default=True)
@click.option("--only", "rows", callback=_rows, help=f"{_ROWS}.")
@click.option("--streams", type=click.IntRange(0), default=100_000, show_default=True, help="The attacker has so many.")
@click.option("--event", type=click.IntRange(10), default=1 << 20, show_default=True, help="Bytes of a large event.")
@click.option("--seed", type=int, default=None, help="For what is drawn.  [default: a new one]")
@click.option("--logs", type=click.Path(path_type=Path), default=None, help="A folder for what the Machines print.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def main(
    seconds: float, machines: int, rows: tuple[int, ...], streams: int, event: int, seed: int | None,
    logs: Path | None, markdown: bool, as_json: bool,
) -> None:  # fmt: skip
    """See what one tenant's abuse costs another.

    Everything listens on loopback, and all of it is started and ended here. The exit code is 1 when the log is not
    exactly what was acknowledged, or an honest request failed for good; goals that are missed are only told.
    """
    plan = Plan(random.randrange(1 << 32) if seed is None else seed, seconds, machines, rows, streams, event, logs)
    click.echo(f"seed {plan.seed}", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: whatever was started is ended
    report = asyncio.run(besiege(plan, lambda line: click.echo(line, err=True)))
    click.echo(report.json() if as_json else report.markdown() if markdown else report.text())
    click.echo(report.complaint(), err=True)
    sys.exit(0 if report.held else 1)


if __name__ == "__main__":
    main()
