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
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path

import asyncpg
import click

from gateway.process.machine import Machine, MachineFailed
from loadtests.bench.lab import compile_tool
from loadtests.bench.processes import Failed, Process, cpu
from loadtests.regions.ground import Ground, open_ground
from loadtests.regions.network import Region, Unavailable, open_regions
from loadtests.regions.report import Cost, Report, rates_table
from loadtests.regions.residents import Measured, Orders

PRIMARY = "iad"
REGIONS = (PRIMARY, "fra", "syd")
ROUND_TRIPS = {frozenset(("iad", "fra")): 0.090, frozenset(("iad", "syd")): 0.200, frozenset(("fra", "syd")): 0.280}
CANNOT = 3
_COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@click.command()
@click.option("--seconds", type=float, default=20.0, show_default=True, help="How long the regions write.")
@click.option("--pace", type=float, default=5.0, show_default=True, help="Appends of a region a second, at most.")
@click.option("--readers", type=click.IntRange(1), default=3, show_default=True, help="In each region, of each run.")
@click.option("--loss", type=float, default=0.001, show_default=True, help="The share of packets that is lost.")
@click.option("--rates", is_flag=True, help="Only how many events a second producers bring in, region after region.")
@click.option("--replicas", is_flag=True, help="Far regions have a replica each, by READ_DATABASE_URL.")
def main(seconds: float, pace: float, readers: int, loss: float, rates: bool, replicas: bool) -> None:
    """See what distance costs: an append or a read in a far region must take one round trip to Postgres.

    Where there is a replica a read takes none.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: whatever was started is ended
    try:
        if rates:
            click.echo(asyncio.run(measure_rates(loss)))
            return
        report = asyncio.run(measure(seconds, pace, readers, loss, replicas))
    except Unavailable as error:
        click.echo(f"Regions cannot be made on this host: {error}.", err=True)
        sys.exit(CANNOT)
    except (Failed, MachineFailed) as error:
        raise click.ClickException(str(error)) from error
    click.echo(report.text())
    for fault in report.faults():
        click.echo(fault, err=True)
    sys.exit(1 if any(report.faults()) else 0)


async def measure(seconds: float, pace: float, readers: int, loss: float, replicas: bool = False) -> Report:
    """Everything from an empty database to the report. Raises Unavailable, Failed."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="regions-")))
        regions, ocean = await stack.enter_async_context(open_regions(REGIONS, ROUND_TRIPS, loss, folder))
        ground = await stack.enter_async_context(open_ground(regions, folder, replicas=replicas))
        machines = await asyncio.gather(*(_machine(stack, region, ground) for region in regions))
        before, commits = cpu([ground.pid]), await _ask(ground.dsn, _COMMITS)
        runs = {region.name: f"regions-{region.name}-{secrets.token_hex(4)}" for region in regions}
        async with asyncio.TaskGroup() as tasks:
            living = {
                region.name: tasks.create_task(
                    _live(Orders(region.name, region.pid, machine.url, runs, seconds, pace, readers), folder)
                )
                for region, machine in zip(regions, machines, strict=True)
            }
        used = (cpu([ground.pid]) - before).total
        connections = await _ask(ground.dsn, _CONNECTIONS)
        await asyncio.sleep(1.5)  # backends tell of their transactions once a second
        cost = Cost(used, await _ask(ground.dsn, _COMMITS) - commits, connections)
        round_trips = {name: 1000 * ROUND_TRIPS.get(frozenset((PRIMARY, name)), 0.0) for name in REGIONS}
        measured = {name: task.result() for name, task in living.items()}
        return Report(round_trips, measured, cost, ocean.carried, ocean.dropped, frozenset(ground.replicas))


async def measure_rates(loss: float) -> str:
    """The rates of each region's producers, one region after the other, as a table. Raises Unavailable, Failed."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="regions-")))
        regions, _ = await stack.enter_async_context(open_regions(REGIONS, ROUND_TRIPS, loss, folder))
        ground = await stack.enter_async_context(open_ground(regions, folder, replicas=False))
        await compile_tool("writers", folder)
        rows: dict[str, dict[str, float]] = {}
        for region in regions:
            machine = await _machine(stack, region, ground, HOST="0.0.0.0")  # the C clients connect to loopback
            command = [sys.executable, "-m", "loadtests.regions.producers", str(region.pid), str(machine.port)]
            first = ["make"] if region is regions[0] else []
            producers = await Process.start([*command, str(folder), *first], folder / f"producers-{region.name}.log")
            stack.push_async_callback(producers.stop)
            await producers.end(200)
            told = producers.log.read_text().strip()
            if not told.startswith("{"):
                raise Failed(f"the producers of {region.name} failed: {producers.said()}")
            rows[region.name] = json.loads(told)
            await machine.end()
        return rates_table(rows)


async def _machine(stack: AsyncExitStack, region: Region, ground: Ground, **more: str) -> Machine:
    settings = {
        "HOST": region.address,
        "DATABASE_URL": ground.url,
        "READ_DATABASE_URL": ground.replicas.get(region.name, ""),
        "GATEWAY_MIGRATE": "false",
        "GATEWAY_ALLOW_ANONYMOUS": "true",  # nobody is in the namespace but those who were put there
        **more,
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
