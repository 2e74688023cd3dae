"""What it costs to record many runs in one Python process: `run_gateway.Run` for each, at a model's speed.

    python -m loadtests.probes.recorder                      # 1,000 runs, 20 events/s each, for 10 s
    python -m loadtests.probes.recorder --apart              # the same, each append in a request of its own

One Machine over a Postgres of its own, on loopback. Afterwards each run is read: whole, in order, and closed.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click
import httpx
import uvloop

from gateway.client import Run
from gateway.embedded import EmbeddedPostgres
from gateway.process.machine import Machine
from loadtests.bench.processes import cpu
from run_gateway.sharing import sharing
from run_gateway.together import Together

PADDING: Final = "." * 24


@click.command()
@click.option("--runs", type=click.IntRange(2), default=1_000, show_default=True)
@click.option("--rate", type=click.IntRange(1), default=20, show_default=True, help="Events a second of each run.")
@click.option("--seconds", type=click.IntRange(1), default=10, show_default=True)
@click.option("--apart", is_flag=True, help="Each append in a request of its own.")
def main(runs: int, rate: int, seconds: int, apart: bool) -> None:
    """Print what recording takes, of this process and of the Machine."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(runs, rate, seconds, apart))


async def _measure(runs: int, rate: int, seconds: int, apart: bool) -> None:
    with TemporaryDirectory(prefix="run-gateway-recorder-") as folder:
        async with EmbeddedPostgres(Path(folder)) as postgres:
            machine = Machine({"DATABASE_URL": postgres.dsn, "GATEWAY_LOG_LEVEL": "warning"})
            await machine.launch()
            try:
                await _record(machine, runs, rate * seconds, rate, apart)
                await _check(machine.url, runs, rate * seconds)
            finally:
                await machine.kill()


async def _record(machine: Machine, runs: int, each: int, rate: int, apart: bool) -> None:
    entered, ready = asyncio.Barrier(runs + 1), asyncio.Event()

    async def agent(n: int) -> None:
        async with Run(f"{machine.url}/runs/{n}", lease=300) as run:
            await entered.wait()
            await ready.wait()
            begin = time.perf_counter() + n / runs / rate
            for k in range(each):
                await asyncio.sleep(max(0.0, begin + k / rate - time.perf_counter()))
                await run.emit({"k": k, "text": PADDING})

    async with sharing() as session, asyncio.TaskGroup() as tasks:
        together = session.shared.together[machine.url] = Together(session.http, machine.url)
        together.known_there = not apart
        agents = [tasks.create_task(agent(n)) for n in range(runs)]
        await entered.wait()
        began, ours, theirs, requests = time.perf_counter(), time.process_time(), cpu([machine.pid]), together.requests
        ready.set()
        await asyncio.wait(agents)
        events, took = runs * each, time.perf_counter() - began
        used = cpu([machine.pid]) - theirs
        click.echo(
            f"{events} events in {took:.1f} s, {events / took:,.0f} a second of {runs * rate:,} asked for;"
            f" CPU of an event: {(time.process_time() - ours) / events * 1e6:.0f} µs here,"
            f" {used.total / events * 1e6:.0f} µs of the Machine; {together.requests - requests} requests for many"
        )


async def _check(url: str, runs: int, each: int) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        for n in range(runs):
            *events, end = (await http.get(f"{url}/runs/{n}")).json()
            assert [event["k"] for event in events] == [*range(each)], f"run {n} is not whole"
            assert end == {"type": "run_end", "isError": False}


if __name__ == "__main__":
    main()
