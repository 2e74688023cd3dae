"""One small Machine, and all at once that its limits let in.

    sudo .venv/bin/python -m loadtests.small

A Machine in a control group of 512 MB and one core, with Postgres and the clients outside of it. Each phase leaves its
readers to the next. The exit code is 1 if the Machine was killed, a reader missed or repeated something, or `/health`
took a second longer at the port of the metrics (`private`) than a server that does nothing (`beside`); 3 where no such
group can be made. At the public port (`longest`) it is accepted behind those who have connected before.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click
import httpx

from gateway.process.machine import Machine
from loadtests.bench.lab import compile_tool
from loadtests.bench.postgres import Postgres
from loadtests.bench.processes import Failed, Process, free_port
from loadtests.small.cgroup import Group, Missing, group
from loadtests.small.stage import PATIENCE, Stage

MIB: Final = 1 << 20
EVERY: Final = 0.05  # seconds between two looks at /health
SETTINGS: Final = {
    "GATEWAY_SSE_MAX_AGE": "3600",  # readers stay while they are counted
    "GATEWAY_MAX_READERS": "20000",  # idle and slow ones are there at once
    "GATEWAY_LOG_LEVEL": "warning",
    "GATEWAY_METRICS_PORT": "0",  # which fly.toml sets, too
    "GATEWAY_DRAIN_TIMEOUT": "0",
}
RELAY: Final = {"GATEWAY_RELAY": "ai-sdk:/api/chat", "GATEWAY_RELAY_DRAIN": "0"}

Phase = Callable[[Stage], Awaitable[None]]


@click.command()
@click.option("--memory", type=int, default=512, show_default=True, help="MB of the Machine.")
@click.option("--cores", type=float, default=1.0, show_default=True)
@click.option("--scale", type=float, default=1.0, show_default=True, help="Of the numbers of readers.")
def main(memory: int, cores: float, scale: float) -> None:
    """Print what the Machine held and how long /health took, phase by phase."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        with group(memory * MIB, cores) as small:
            wrong = asyncio.run(_measure(small, scale))
    except Missing as error:
        click.echo(str(error), err=True)
        sys.exit(3)
    for each in wrong:
        click.echo(f"WRONG: {each}")
    sys.exit(1 if wrong else 0)


async def _measure(small: Group, scale: float) -> list[str]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="run-gateway-small-")))
        folder.chmod(0o755)  # noqa: ASYNC240
        tools = {name: await compile_tool(name, folder) for name in ("readers", "catchup")}
        postgres = await stack.enter_async_context(Postgres(folder / "postgres"))
        port = free_port()
        agent = await Process.start([sys.executable, "-m", "loadtests.relay.agent", str(port)], folder / "agent.log")
        stack.push_async_callback(agent.stop)
        # What is asked beside /health, for how long asking takes on this machine, whatever else goes on there.
        server = await stack.enter_async_context(await asyncio.start_server(_say_well, "127.0.0.1", 0))
        acts = Acts(small, tools, await postgres.create(), server.sockets[0].getsockname()[1], scale)
        click.echo(f"{'phase':28} {'took':>7} {'held':>7} {'most':>7} {'/health p50':>12}  longest  private   beside")
        await acts.play({}, (Stage.idle, Stage.storm, Stage.slow, Stage.long))
        # One that relays has half as many connections, since each may need two descriptors.
        await acts.play(RELAY | {"GATEWAY_UPSTREAM": f"http://127.0.0.1:{port}"}, (Stage.relayed,))
        click.echo(f"memory was reclaimed {small.reached()} times, processes killed {small.kills()} times")
        return acts.wrong


@dataclass
class Acts:
    """Each has a Machine of its own, in the same group. `beside`: the port that is asked beside /health."""

    small: Group
    tools: Mapping[str, Path]
    database: str
    beside: int
    scale: float
    wrong: list[str] = field(default_factory=list)

    async def play(self, settings: Mapping[str, str], phases: Sequence[Phase]) -> None:
        """Plays the phases one after the other, and prints a line for each."""
        place = {"DATABASE_URL": self.database, "CGROUPS": ":".join(map(str, self.small.folders))}
        machine = Machine({**SETTINGS, **settings, **place}, program="loadtests.small.inside")
        async with AsyncExitStack() as stack:
            await machine.launch()
            stack.push_async_callback(machine.kill)
            client = httpx.AsyncClient(base_url=machine.url, timeout=PATIENCE, limits=httpx.Limits(max_connections=400))
            stage = Stage(machine, self.tools, await stack.enter_async_context(client), stack, self.scale)
            click.echo(f"ready, with {self.small.used() / MIB:.0f} MB (cgroup v{self.small.version})")
            for phase in phases:
                await self._phase(phase, stage, machine)
                if not machine.running:
                    return

    async def _phase(self, phase: Phase, stage: Stage, machine: Machine) -> None:
        name = (phase.__doc__ or "").partition(":")[0]
        times: list[float] = []
        idle: list[float] = []
        apart: list[float] = []
        ports = {machine.port: times, _private(machine): apart, self.beside: idle}
        asking = [asyncio.create_task(_ask(port, into)) for port, into in ports.items()]
        began = time.monotonic()
        try:
            await phase(stage)
        except (AssertionError, Failed, TimeoutError, httpx.HTTPError) as error:
            self.wrong.append(f"{name}: {error or type(error).__name__}")
        took = time.monotonic() - began
        for each in asking:
            each.cancel()
        median = sorted(times)[len(times) // 2] if times else 0.0
        public, private, own = (max(each, default=0.0) for each in (times, apart, idle))
        click.echo(
            f"{name:28} {took:5.1f} s {self.small.used() / MIB:4.0f} MB {self.small.peak() / MIB:4.0f} MB"
            f" {median * 1e3:9.1f} ms {public * 1e3:6.0f} ms {private * 1e3:6.0f} ms {own * 1e3:6.0f} ms"
        )
        if private - own >= 1:
            self.wrong.append(f"{name}: /health took {private:.2f} s")
        if self.small.kills() or not machine.running:
            self.wrong.append(f"{name}: the Machine was killed")


def _private(machine: Machine) -> int:
    """The port of the metrics, where /health does not wait behind all who connect at one time."""
    found = re.search(r"^Metrics on http://\S+:(\d+)/", machine.log, re.MULTILINE)
    assert found is not None, machine.log
    return int(found[1])


async def _say_well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError):  # who asked is no longer there
        await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    writer.close()


async def _ask(port: int, times: list[float]) -> None:
    """Asks /health on a connection of its own each time, as a load balancer does, until cancelled. What is no 200 is a
    wait without end.
    """
    while True:
        began = time.monotonic()
        status = b""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nhost: small\r\nconnection: close\r\n\r\n")
            status = await reader.readuntil(b"\r\n")
            writer.close()
        times.append(time.monotonic() - began if b" 200 " in status else math.inf)
        await asyncio.sleep(EVERY)


if __name__ == "__main__":
    main()
