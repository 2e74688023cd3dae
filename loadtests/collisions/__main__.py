"""`python -m loadtests.collisions`: many sessions at once, and whether the log kept its rules; exit code 1 when not."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import tempfile
from pathlib import Path

import click

from loadtests.collisions.server import open_server
from loadtests.collisions.stress import Outcome, collide


@click.command()
@click.option("--seed", type=int, default=None, help="Draws the same calls again.  [default: a new one]")
@click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=120.0, show_default=True, help="How long callers go on."
)
@click.option("--postgres", type=click.IntRange(14), default=18, show_default=True, help="The major version.")
def main(seed: int | None, seconds: float, postgres: int) -> None:
    """See whether the log keeps its rules when its functions collide.

    Everything is started and ended here, on loopback.
    """
    seed = random.randrange(1 << 32) if seed is None else seed
    click.echo(f"seed {seed}, Postgres {postgres}", err=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: whatever was started is ended
    try:
        outcome = asyncio.run(_run(seed, seconds, postgres))
    except LookupError as error:
        raise click.ClickException(str(error)) from error
    click.echo(outcome.text())
    sys.exit(1 if outcome.findings.counts else 0)


async def _run(seed: int, seconds: float, postgres: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="collisions-") as folder:
        async with open_server(postgres, Path(folder) / "data") as url:
            return await collide(url, seed, seconds)


if __name__ == "__main__":
    main()
