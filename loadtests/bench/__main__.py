"""`python -m loadtests.bench`: measures the gateway beside its peers, prints the table, writes JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO, Any

import click

from loadtests.bench import machine, report
from loadtests.bench.lab import QUICK, Scale, open_lab
from loadtests.bench.peers import PEERS
from loadtests.bench.processes import Failed
from loadtests.bench.runner import APART, SCENARIOS, run

TABLE = [name for name in SCENARIOS if name not in APART]
ONLY = f"Scenarios, or beginnings of their names, of {', '.join(SCENARIOS)}.  [default: all but {', '.join(APART)}]"


def _names(known: Sequence[str], otherwise: Sequence[str]) -> Any:
    def choose(_: click.Context, __: click.Parameter, value: str | None) -> list[str]:
        """Those that have or begin with one of the given names."""
        if value is None:
            return list(otherwise)
        for begin in value.split(","):
            if not any(name.startswith(begin) for name in known):
                raise click.BadParameter(f"{begin!r} is none of {', '.join(known)}")
        exact = {begin for begin in value.split(",") if begin in known}
        others = tuple(begin for begin in value.split(",") if begin not in known)
        return [name for name in known if name in exact or (others and name.startswith(others))]

    return choose


@click.command()
@click.option("--only", callback=_names(list(SCENARIOS), TABLE), help=ONLY)
@click.option("--peers", callback=_names(list(PEERS), list(PEERS)), help="Peers, likewise: gateway,floor.")
@click.option("--goals", is_flag=True, help="Of these peers only those that a goal compares the gateway with: sooner.")
@click.option("--rounds", type=click.IntRange(1), default=None, help="Interleaved rounds.  [default: 3; quick: 1]")
@click.option("--quick", is_flag=True, help="Small numbers and short times: shows that it works, and no more.")
@click.option("--seconds", type=float, default=None, help="How long each measurement takes.  [default: 5; quick: 1.5]")
@click.option("--markdown", is_flag=True, help="Print the tables as Markdown too.")
@click.option("--json", "file", type=click.File("w"), help="Write everything that was measured to this file.")
@click.option("--date", default=None, help="The date to write beside the numbers.  [default: today]")
def main(
    only: list[str], peers: list[str], goals: bool, rounds: int | None, quick: bool, seconds: float | None,
    markdown: bool, file: IO[str] | None, date: str | None,
) -> None:  # fmt: skip
    """Measure the gateway and its peers side by side on this machine.

    Everything listens on loopback, and all of it is started and ended here. The exit code is 0 when everything
    that is installed could be measured, whatever the numbers are.
    """
    scale = QUICK if quick else Scale()
    if seconds is not None:
        scale = Scale(**{**vars(scale), "seconds": seconds})
    date = date or datetime.now(UTC).date().isoformat()
    about = {"date": date, "command": ["python", "-m", "loadtests.bench", *sys.argv[1:]], "scale": vars(scale)}
    try:
        failures = asyncio.run(_main(only, peers, goals, rounds or (1 if quick else 3), scale, about, markdown, file))
    except Failed as error:
        raise click.ClickException(str(error)) from error
    sys.exit(1 if failures else 0)


async def _main(
    only: list[str], peers: list[str], goals: bool, rounds: int, scale: Scale, about: dict[str, Any], markdown: bool,
    file: IO[str] | None,
) -> int:  # fmt: skip
    """How many measurements failed."""
    titles = {name: peer.title for name, peer in PEERS.items()}
    async with open_lab(scale) as lab:
        results = await run(lab, only, peers, rounds, lambda line: click.echo(line, err=True), goals=goals)
        about |= {"rounds": rounds, **machine.describe(lab.postgres, peers)}
    click.echo(report.render(results, titles, report.text))
    if markdown:
        click.echo("\n" + report.render(results, titles, report.markdown))
    if file is not None:
        json.dump(report.as_json(results, about), file, indent=1, ensure_ascii=False)
    return results.failures


if __name__ == "__main__":
    main()
