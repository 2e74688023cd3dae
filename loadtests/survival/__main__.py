"""`python -m loadtests.survival`: Machines, writers and readers under faults; exit code 1 when not all was survived.

Postgres is one of its own, or a new database on the server of DATABASE_URL, which is then not restarted. `--failovers`,
`--lagging` and `--replica` take Debian's Postgres, as a primary with a standby.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

import click

from gateway.cli.progress import progress
from loadtests.survival.harness import Plan, survive
from loadtests.survival.report import Report
from loadtests.survival.schedule import PAUSE

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True)


@click.command()
@click.option("--seed", type=int, default=None, help="Draws the same faults again.  [default: a new one]")
@click.option("--seconds", type=float, default=25.0, show_default=True, help="How long faults go on.")
@click.option("--minutes", type=float, default=None, help="A soak: memory and descriptors must stay as they are, too.")
@click.option("--rolling", is_flag=True, help="Rolling deploys instead of faults: no response may break off.")
@click.option("--failovers", is_flag=True, help="Also: a synchronous standby takes over, by force and by arrangement.")
@click.option("--lagging", is_flag=True, help="Also: a standby takes over that lacks the last events.")
@click.option("--replica", is_flag=True, help="Also: a replica that Machines read at is paused, cut off and promoted.")
@click.option("--only", multiple=True, metavar="FAULT", help="Only faults of this kind, as the table names it.")
@click.option("--pause", default=PAUSE, show_default=True, help="Seconds from one fault to the next, on average.")
@click.option("--machines", type=click.IntRange(2), default=3, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="That are written at a time.")
@click.option("--readers", type=click.IntRange(1), default=8, show_default=True, help="Of each run; modes take turns.")
@click.option("--patience", default=60.0, show_default=True, help="Seconds in which a wake or an expiry has to come.")
@click.option(
    "--retention", default=90.0, show_default=True, help="Seconds that closed streams are kept; runs are read by then."
)
@click.option("--machine-module", default="gateway.cli", show_default=True, help="Run in place of run-gateway.")
@click.option("--flue", type=_FOLDER, default=None, help="Of a built Flue app, whose servers write runs and fail, too.")
@click.option("--chore", "chores", multiple=True, metavar="NAME", help="Only chores of this name, as the table has it.")
@click.option("--relay", is_flag=True, help="Also: runs that the relay records, of an agent server that breaks off.")
@click.option("--owned", is_flag=True, help="Conversations in place of runs, each with one owner; an app a Machine.")
@click.option("--logs", type=click.Path(path_type=Path), default=None, help="A folder for what the Machines print.")
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def main(
    seed: int | None, seconds: float, minutes: float | None, rolling: bool, failovers: bool, lagging: bool,
    replica: bool, only: tuple[str, ...], pause: float,
    machines: int, runs: int, readers: int, patience: float, retention: float,
    machine_module: str, flue: Path | None, chores: tuple[str, ...], relay: bool, owned: bool,
    logs: Path | None, markdown: bool, as_json: bool,
) -> None:  # fmt: skip
    """See what the gateway survives.

    Everything listens on loopback, and all of it is started and ended here. The exit code is 1 when an event was lost,
    repeated, reordered or invented, a reader was told the end too early, or anything else in the table is not 0.
    """
    if (failovers or lagging) and (rolling or flue or failovers is lagging):
        raise click.UsageError("--failovers, --lagging, --rolling and --flue are for runs of their own.")
    if replica and (lagging or rolling or flue):
        raise click.UsageError("--replica goes with --failovers alone.")
    if relay and (lagging or rolling):
        raise click.UsageError("--relay is for faults that lose nothing which was acknowledged.")
    if owned and (lagging or relay):
        raise click.UsageError("--owned has applications of its own, and its owners are in the database.")
    plan = Plan(
        seed=random.randrange(1 << 32) if seed is None else seed,
        seconds=seconds if minutes is None else 60 * minutes,
        machines=machines,
        scenes=runs,
        readers=readers,
        rolling=rolling,
        failovers=failovers,
        lagging=lagging,
        replica=replica,
        only=only,
        pause=pause,
        soak=minutes is not None,
        patience=patience,
        retention=retention,
        program=machine_module,
        flue=flue,
        chores=chores,
        relay=relay,
        owned=owned,
        logs=logs,
        database_url=os.environ.get("DATABASE_URL"),
    )
    click.echo(f"seed {plan.seed}", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: whatever was started is ended
    report = asyncio.run(_survive(plan))
    click.echo(report.json() if as_json else report.markdown() if markdown else report.text())
    click.echo(report.complaint(), err=True)
    sys.exit(0 if report.survived else 1)


async def _survive(plan: Plan) -> Report:
    with progress("seconds of faults") as told:
        told.whole = round(plan.seconds)

        def tell(line: str) -> None:
            told.end()
            click.echo(line, err=True)

        async with told.ticking(1):
            return await survive(plan, tell)


if __name__ == "__main__":
    main()
