"""Thousands of long-poll readers of one run behind nginx, configured as the manual has it: what they cost the gateway.

    python -m loadtests.caches
    python -m loadtests.caches --readers 500 --events 50 --rate 5

All must be given every event once. The exit code is 1 if one was not, or the gateway was asked more than three times an
event.
"""

from __future__ import annotations

import asyncio
import re
import resource
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import click
import httpx

from gateway.process.machine import Machine
from loadtests.bench.clients.program import Program
from loadtests.bench.lab import compile_tool
from loadtests.bench.postgres import Postgres
from loadtests.bench.processes import cpu
from loadtests.bench.stats import Histogram
from tests.tools.nginx import cached, nginx

RUN: Final = "/runs/live-1"
JSON: Final = {"content-type": "application/json"}
PATIENCE: Final = 300.0
MOST: Final = 3  # requests that an event may cost


@click.command()
@click.option("--readers", type=int, default=5_000, show_default=True)
@click.option("--events", type=int, default=50, show_default=True)
@click.option("--rate", type=float, default=1.0, show_default=True, help="Events a second.")
def main(readers: int, events: int, rate: float) -> None:
    """Print what the readers cost the gateway and the cache, and how late they were."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.exit(asyncio.run(_measure(readers, events, rate)))


async def _measure(readers: int, events: int, rate: float) -> int:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-gateway-caches-")))
        folder.chmod(0o755)  # noqa: ASYNC240
        polls = await compile_tool("polls", folder)
        postgres = await stack.enter_async_context(Postgres(folder / "postgres"))
        settings = {"GATEWAY_PUBLIC_RUNS": "live-*", "GATEWAY_ACCESS_LOG": "true", "GATEWAY_DRAIN_TIMEOUT": "0"}
        machine = Machine(settings | {"DATABASE_URL": await postgres.create()})
        await machine.launch()
        stack.push_async_callback(machine.kill)
        front = folder / "nginx"
        front.mkdir(mode=0o755)
        server, outside = cached(machine.url, front)
        url = await stack.enter_async_context(nginx(front, server, outside, connections=2 * readers + 512))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=machine.url, timeout=PATIENCE))
        (await http.put(RUN, headers=JSON)).raise_for_status()
        pid = int((front / "nginx.pid").read_text())
        options = {"port": url.rpartition(":")[2], "path": RUN, "readers": readers, "events": events}
        async with Program.start(polls, **options) as program:
            await program.line(PATIENCE)
            before, used, front_used = _asked(machine.log), cpu([machine.pid]), cpu([pid])
            for number in range(1, events + 1):
                pause = asyncio.create_task(asyncio.sleep(1 / rate))
                event = f'[{{"n":"{number:010}","t":"{time.monotonic_ns() // 1_000:016}","p":""}}]'
                (await http.post(RUN, headers=JSON, content=event)).raise_for_status()
                await pause
            line = await program.line(PATIENCE)
        asked = _asked(machine.log) - before
        mine, front_cpu = cpu([machine.pid]) - used, cpu([pid]) - front_used
        return _tell(line, readers, events, asked, mine.total, front_cpu.total)


def _asked(log: str) -> int:
    """The reads of the run that the gateway has answered."""
    return len(re.findall(rf'"method": ?"GET", ?"path": ?"{RUN}"', log))


def _tell(line: dict[str, Any], readers: int, events: int, asked: int, mine: float, front: float) -> int:
    late = Histogram.parse(line["latency"])
    click.echo(f"{readers:,} readers, {events} events: {line['answers']:,} answers, {line['empty']:,} of them empty")
    click.echo(f"the gateway was asked {asked} times, {asked / events:.2f} for each event")
    click.echo(f"CPU for each event: the gateway {mine / events * 1e3:.1f} ms, nginx {front / events * 1e3:.0f} ms")
    click.echo(f"late by p50 {late.milliseconds(0.5):.0f} ms, p99 {late.milliseconds(0.99):.0f} ms")
    click.echo(f"missed or repeated: {line['faults']}")
    return int(bool(line["faults"]) or asked > MOST * events)


if __name__ == "__main__":
    main()
