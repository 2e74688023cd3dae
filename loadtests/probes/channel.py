"""`python -m loadtests.probes.channel`: what it costs that other Machines hear of an append on a secret channel.

Two Machines over a database as it is, and two over one in which the functions that notify have the channel's name as a
constant, and look it up nowhere: a POST at one Machine, until its frame is at a reader of the other, by turns.
Whatever is started is ended.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import click
import httpx

from gateway.embedded import EmbeddedPostgres
from gateway.log.migrations import migrate
from gateway.process.machine import Machine

PAUSE: Final = 0.004  # seconds between two events
WARMING: Final = 50  # events that are not counted
MEETING: Final = 4.0  # seconds until each Machine knows of the other
LOOK: Final = "SELECT c.name INTO channel FROM run_gateway.channel c;"
WITH_LOOK: Final = """
    SELECT pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname = 'run_gateway' AND strpos(p.prosrc, $1) > 0
"""


@dataclass
class Pair:
    """A writer's connection to one Machine, and a reader's to another."""

    writer: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    reader: tuple[asyncio.StreamReader, asyncio.StreamWriter]

    async def pass_on(self, number: int) -> float:
        """Seconds from an event's POST until its frame is at the reader."""
        answers, posts = self.writer
        body, mark = b'{"n":%d,"text":"%b"}' % (number, b"x" * 200), b'"n":%d,' % number
        began = time.perf_counter()
        posts.write(
            b"POST /runs/r HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        got = b""
        while mark not in got:
            piece = await self.reader[0].read(1 << 16)
            if not piece:
                raise RuntimeError("the reader's response has ended")
            got += piece
        took = time.perf_counter() - began
        await answers.readuntil(b"\r\n\r\n")
        return took


async def fix_name(url: str) -> None:
    """Has the functions of this database know the channel without a look."""
    connection = await asyncpg.connect(url)
    try:
        name = await connection.fetchval("SELECT name FROM run_gateway.channel")
        found = await connection.fetch(WITH_LOOK, LOOK)
        for (definition,) in found:
            await connection.execute(definition.replace(LOOK, f"channel := '{name}';"))
        if not found:
            raise RuntimeError("no function looks the channel up")
    finally:
        await connection.close()


async def open_pair(stack: AsyncExitStack, url: str) -> Pair:
    machines = [Machine({"PORT": "0", "DATABASE_URL": url, "GATEWAY_MIGRATE": "false"}) for _ in range(2)]
    for machine in machines:
        stack.push_async_callback(machine.end)
        await machine.launch()
    await asyncio.sleep(MEETING)
    async with httpx.AsyncClient(timeout=60) as http:
        made = await http.put(f"{machines[0].url}/runs/r", headers={"content-type": "application/json"})
        made.raise_for_status()
    writer, reader = [await asyncio.open_connection(urlsplit(each.url).hostname, each.port) for each in machines]
    for _, end in (writer, reader):
        stack.callback(end.close)
    reader[1].write(b"GET /runs/r?offset=now&live=sse HTTP/1.1\r\nhost: h\r\n\r\n")
    await reader[0].readuntil(b"\r\n\r\n")
    return Pair(writer, reader)


async def run(events: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder)) as postgres, AsyncExitStack() as stack:
            connection = await asyncpg.connect(postgres.dsn)
            await connection.execute("CREATE DATABASE fixed")
            await connection.close()
            parts = urlsplit(postgres.dsn)
            urls = {"looked up": postgres.dsn, "fixed": parts._replace(path="/fixed").geturl()}
            for url in urls.values():
                await migrate(url)
            await fix_name(urls["fixed"])
            pairs = {name: await open_pair(stack, url) for name, url in urls.items()}
            times: dict[str, list[float]] = {name: [] for name in pairs}
            for number in range(WARMING + events):
                for name in sorted(pairs, reverse=bool(number % 2)):
                    took = await pairs[name].pass_on(number)
                    if number >= WARMING:
                        times[name].append(took)
                    await asyncio.sleep(PAUSE)
    for name, found in times.items():
        half, nine = (statistics.quantiles(found, n=10)[place] for place in (4, 8))
        click.echo(f"{name:10} p50 {1000 * half:6.3f} ms   p90 {1000 * nine:6.3f} ms")
    ratios = [a / b for a, b in zip(times["looked up"], times["fixed"], strict=True)]
    click.echo(f"ratio of neighbours, median {statistics.median(ratios):.3f}")


@click.command()
@click.option("--events", default=1_000, show_default=True, type=click.IntRange(10))
def main(events: int) -> None:
    """See what the secret channel costs an event's way to another Machine."""
    asyncio.run(run(events))


if __name__ == "__main__":
    main()
