"""`python -m loadtests.relay`: delay, first token and CPU of streams that are asked for directly and through a gateway.

Every stream is checked: all of its frames, once, in order. The followers of `relay+follower` are at another Machine.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import click
import uvloop

from gateway.process.machine import Machine
from loadtests.bench.postgres import Postgres
from loadtests.bench.processes import Cpu, Process, cpu, free_port, memory
from loadtests.relay.askers import Seen, ask, follow

WAYS = ("direct", "upstream", "relay", "relay+follower")
PATIENCE = 120.0  # seconds beyond the length of a stream


@asynccontextmanager
async def lab(ways: Sequence[str]) -> AsyncIterator[tuple[int, dict[str, Machine], Postgres]]:
    """The agent server's port, the gateways by what they are for, and their database."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = await stack.enter_async_context(Postgres(folder))
        url = await postgres.create()
        port = free_port()
        agent = await Process.start([sys.executable, "-m", "loadtests.relay.agent", str(port)], folder / "agent.log")
        stack.push_async_callback(agent.stop)
        await agent.listening(port)
        machines: dict[str, Machine] = {}
        for name in ("upstream", "relay", "other"):
            relay = {} if name == "upstream" else {"GATEWAY_RELAY": "ai-sdk:/api/chat", "GATEWAY_RELAY_DRAIN": "0"}
            env = {"DATABASE_URL": url, "GATEWAY_UPSTREAM": f"http://127.0.0.1:{port}", "GATEWAY_DRAIN_TIMEOUT": "0"}
            if name == "other" and "relay+follower" not in ways:
                continue
            machines[name] = Machine(env | relay)
            await machines[name].launch()
            stack.push_async_callback(machines[name].end)
        yield port, machines, postgres


async def measure(
    way: str, streams: int, rate: float, seconds: float, agent: int, machines: dict[str, Machine], postgres: Postgres
) -> str:
    """One row of the table."""
    machine = machines.get(way.partition("+")[0])
    used = [each for name, each in machines.items() if way != "direct" and (name == way or way.startswith("relay"))]
    used = [each for each in used if each is not machines["upstream"] or way == "upstream"]
    port = agent if machine is None else machine.port
    frames = int(rate * seconds)
    seen, followed = Seen(), Seen()
    before, database = _cpu(used), postgres.cpu()
    idle = memory([each.pid for each in used]) if used else 0
    askers = []
    for n in range(streams):
        askers.append(await ask(port, seen, f"{way}-{streams}-{rate}-{n}", frames, rate))
        await asyncio.sleep(1 / rate / streams)
    if way == "relay+follower":
        for n in range(streams):
            await askers[n].begun
            askers.append(await follow(machines["other"].port, followed, f"{way}-{streams}-{rate}-{n}"))
    await asyncio.sleep(seconds / 2)
    busy = memory([each.pid for each in used]) if used else 0
    async with asyncio.timeout(seconds + PATIENCE):
        await asyncio.gather(*(asker.done for asker in askers))
    gateway, database = _cpu(used) - before, postgres.cpu() - database
    total = streams * frames
    lost = total - seen.frames + (total - followed.frames if way == "relay+follower" else 0)
    cells = [
        way, str(streams), f"{rate:g}", _both(seen.firsts), _both(seen.delays),
        _both(followed.delays) if followed.frames else "",
        f"{gateway.total / total * 1e6:.0f}", f"{database.total / total * 1e6:.0f}" if machine else "",
        f"{(busy - idle) / streams / 1024:.0f}", str(seen.wrong + followed.wrong + lost),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _cpu(machines: Sequence[Machine]) -> Cpu:
    return cpu([machine.pid for machine in machines])


def _both(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    cut = statistics.quantiles(values, n=100)
    return f"{cut[49]:.2f}; {cut[98]:.1f}"


@click.command()
@click.option("--ways", default=",".join(WAYS), help="What is measured.", show_default=True)
@click.option("--streams", default="1,100", help="Streams at the same time.", show_default=True)
@click.option("--rate", default=50.0, help="Frames a second of each.", show_default=True)
@click.option("--seconds", default=6.0, help="How long each stream takes.", show_default=True)
def main(ways: str, streams: str, rate: float, seconds: float) -> None:
    """Measure what the relay adds, on loopback."""
    uvloop.run(_main(ways.split(","), [int(each) for each in streams.split(",")], rate, seconds))


async def _main(ways: Sequence[str], streams: Sequence[int], rate: float, seconds: float) -> None:
    click.echo(
        "| way | streams | frames/s each | first frame, ms, p50; p99 | delay of a frame, ms, p50; p99 | of a follower"
        " | gateway, µs/frame | Postgres, µs/frame | kB/stream | lost or wrong |\n" + "|---" * 10 + "|"
    )
    async with lab(ways) as (agent, machines, postgres):
        for way in ways:  # once, so that nothing is measured that happens once
            await measure(way, 5, rate, 1, agent, machines, postgres)
        for count in streams:
            for way in ways:
                click.echo(await measure(way, count, rate, seconds, agent, machines, postgres))


if __name__ == "__main__":
    main()
