"""`python -m loadtests.regions`: Machines in iad, fra and syd over a Postgres in iad, each in a network namespace.

Exit code 1 when an append or a read in a far region costs more than one round trip to Postgres, or a reader was not
given the whole run; 3 when regions cannot be made on this host.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import click

from gateway.embedded import EmbeddedPostgres
from gateway.log.migrations import migrate
from gateway.process.machine import Machine, MachineFailed
from loadtests.bench.processes import Failed, Process, cpu
from loadtests.regions.network import Region, Unavailable, open_regions
from loadtests.regions.report import Cost, Report
from loadtests.regions.residents import Measured, Orders

PRIMARY = "iad"
REGIONS = (PRIMARY, "fra", "syd")
ROUND_TRIPS = {frozenset(("iad", "fra")): 0.090, frozenset(("iad", "syd")): 0.200, frozenset(("fra", "syd")): 0.280}
POSTGRES_PORT = 5432
CANNOT = 3
_COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@click.command()
@click.option("--seconds", type=float, default=20.0, show_default=True, help="How long the regions write.")
@click.option("--pace", type=float, default=5.0, show_default=True, help="Appends of a region a second, at most.")
@click.option("--readers", type=click.IntRange(1), default=3, show_default=True, help="In each region, of each run.")
@click.option("--loss", type=float, default=0.001, show_default=True, help="The share of packets that is lost.")
def main(seconds: float, pace: float, readers: int, loss: float) -> None:
    """See what distance costs: an append or a read in a far region must take one round trip to Postgres."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: whatever was started is ended
    try:
        report = asyncio.run(measure(seconds, pace, readers, loss))
    except Unavailable as error:
        click.echo(f"Regions cannot be made on this host: {error}.", err=True)
        sys.exit(CANNOT)
    except (Failed, MachineFailed) as error:
        raise click.ClickException(str(error)) from error
    click.echo(report.text())
    for fault in report.faults():
        click.echo(fault, err=True)
    sys.exit(1 if any(report.faults()) else 0)


async def measure(seconds: float, pace: float, readers: int, loss: float) -> Report:
    """Everything from an empty database to the report. Raises Unavailable, Failed."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="regions-")))
        regions, ocean = await stack.enter_async_context(open_regions(REGIONS, ROUND_TRIPS, loss, folder))
        postgres = await stack.enter_async_context(EmbeddedPostgres(folder / "postgres"))
        await migrate(postgres.dsn)
        url = await _open_door(stack, regions[0], postgres.dsn, folder)
        machines = await asyncio.gather(*(_machine(stack, region, url) for region in regions))
        assert postgres.pid is not None, "it is ours"
        before, commits = cpu([postgres.pid]), await _ask(postgres.dsn, _COMMITS)
        runs = {region.name: f"regions-{region.name}-{secrets.token_hex(4)}" for region in regions}
        async with asyncio.TaskGroup() as tasks:
            living = {
                region.name: tasks.create_task(
                    _live(Orders(region.name, region.pid, machine.url, runs, seconds, pace, readers), folder)
                )
                for region, machine in zip(regions, machines, strict=True)
            }
        used = (cpu([postgres.pid]) - before).total
        connections = await _ask(postgres.dsn, _CONNECTIONS)
        await asyncio.sleep(1.5)  # backends tell of their transactions once a second
        cost = Cost(used, await _ask(postgres.dsn, _COMMITS) - commits, connections)
        round_trips = {name: 1000 * ROUND_TRIPS.get(frozenset((PRIMARY, name)), 0.0) for name in REGIONS}
        measured = {name: task.result() for name, task in living.items()}
        return Report(round_trips, measured, cost, ocean.carried, ocean.dropped)


async def _open_door(stack: AsyncExitStack, region: Region, dsn: str, folder: Path) -> str:
    """Postgres' address for all regions."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    socket = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
    arguments = [str(region.pid), region.address, str(POSTGRES_PORT), socket]
    door = await Process.start([sys.executable, "-m", "loadtests.regions.door", *arguments], folder / "door.log")
    stack.push_async_callback(door.stop)
    deadline = time.monotonic() + 20
    while door.said() != "open":
        if not door.running or time.monotonic() > deadline:
            raise Failed(f"the door to Postgres did not open: {door.said()}")
        await asyncio.sleep(0.02)
    return f"postgresql://postgres@{region.address}:{POSTGRES_PORT}{parts.path}"


async def _machine(stack: AsyncExitStack, region: Region, url: str) -> Machine:
    settings = {
        "HOST": region.address,
        "DATABASE_URL": url,
        "GATEWAY_MIGRATE": "false",
        "GATEWAY_ALLOW_ANONYMOUS": "true",  # nobody is in the namespace but those who were put there
    }
    machine = Machine({**region.environment, **settings}, program="loadtests.regions.inside")
    stack.push_async_callback(machine.kill)
    await machine.launch()
    return machine


async def _live(orders: Orders, folder: Path) -> Measured:
    """The residents of one region, until they have measured."""
    command = [sys.executable, "-m", "loadtests.regions.residents", json.dumps(asdict(orders))]
    process = await Process.start(command, folder / f"residents-{orders.region}.log")
    try:
        await process.end(orders.seconds + 60)
        told = process.log.read_text().strip()
        if not told.startswith("{"):
            raise Failed(f"the residents of {orders.region} failed: {process.said()}")
        return Measured(**json.loads(told))
    finally:
        await process.stop()


async def _ask(dsn: str, question: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        answer: int = await connection.fetchval(question)
        return answer
    finally:
        await connection.close()


if __name__ == "__main__":
    main()
