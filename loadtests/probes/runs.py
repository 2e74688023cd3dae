"""`python -m loadtests.probes.runs`: how soon a lost run ends for its readers, how soon a producer learns of a cancel.

Two Machines over a Postgres of their own, on loopback. Whatever is started is ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import click

from gateway.embedded import EmbeddedPostgres
from gateway.process.machine import Machine

CONNECTIONS = 32
PATIENCE = 120.0  # seconds that anything may take
BEAT = 0.25  # of a lease: how often the living say so


class Connection:
    """A keep-alive connection that asks one thing at a time."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)

    async def __aenter__(self) -> Self:
        assert self._address.hostname is not None
        self.reader, self._writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, method: str, path: str, body: object = None, *headers: str) -> int:
        """The status; what comes with it is read and let go of."""
        await self.send(method, path, body, *headers)
        status, length = await self.head()
        await self.reader.readexactly(length)
        return status

    async def send(self, method: str, path: str, body: object = None, *headers: str) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"host: {self._address.netloc}", "content-type: application/json"]
        head = "\r\n".join([*lines, *headers, f"content-length: {len(content)}", "", ""])
        self._writer.write(head.encode() + content)
        await self._writer.drain()

    async def head(self) -> tuple[int, int]:
        """Status and length of the answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length")]
        return int(lines[0].split()[1]), sum(lengths)

    async def follow(self, path: str) -> AsyncIterator[bytes]:
        """The lines of an event stream that carry data, as they come."""
        await self.send("GET", f"{path}?offset=-1&live=sse")
        status, _ = await self.head()
        assert status == 200, status
        while line := await self.reader.readline():
            if line.startswith(b"data:"):
                yield line[5:].strip()


@dataclass
class Ends:
    """What became of the lost runs, in seconds from the last event that a reader was given to the end of its run."""

    lease: int
    seconds: list[float] = field(default_factory=list)
    left: int = 0  # runs whose producers kept their promise, and that are still open


@asynccontextmanager
async def two_machines(database_url: str) -> AsyncIterator[tuple[Machine, Machine]]:
    env = {"DATABASE_URL": database_url, "PORT": "0", "GATEWAY_DRAIN_TIMEOUT": "1", "GATEWAY_SSE_MAX_AGE": "3600"}
    machines = Machine(env), Machine({**env, "GATEWAY_MIGRATE": "false"})
    try:
        for machine in machines:
            await machine.launch()
        yield machines
    finally:
        for machine in machines:
            await machine.kill()


async def lose(database_url: str, *, open: int, lost: int, lease: int) -> Ends:
    """Kills a producer of `lost` runs and its Machine at once, while `open` others keep their promises elsewhere."""
    async with two_machines(database_url) as (a, b), AsyncExitStack() as stack:
        ends = Ends(lease)
        living = [f"/runs/living-{n}" for n in range(open)]
        doomed = [f"/runs/doomed-{n}" for n in range(lost)]
        await _each(b.url, [("POST", "/runs", {"id": path[6:], "lease": 30}) for path in living])
        await _each(a.url, [("POST", "/runs", {"id": path[6:]}) for path in doomed])
        beating = asyncio.create_task(_beat(b.url, living, 30 * BEAT))
        producer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtests.probes.runs", "produce", a.url, str(lost), str(lease)
        )
        stack.callback(_end, producer)
        started = asyncio.Semaphore(0)
        readers = [asyncio.create_task(_last(b.url, path, started)) for path in doomed]
        async with asyncio.timeout(PATIENCE):
            for _ in doomed:
                await started.acquire()
            await asyncio.sleep(random.uniform(0, lease))
            producer.kill()
            os.kill(a.pid, signal.SIGKILL)
            ends.seconds += await asyncio.gather(*readers)
            await producer.wait()
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        statuses = await _each(b.url, [("POST", f"{path}/heartbeat", None) for path in living])
        ends.left = statuses.count(204)
        return ends


async def cancel(database_url: str, count: int) -> list[float]:
    """Seconds from a cancel at one Machine until a producer that follows its control stream at the other has it."""
    seconds = []
    async with two_machines(database_url) as (a, b), Connection(b.url) as asking:
        await asyncio.sleep(3.5)  # both know of each other, and that they are told
        for n in range(count):
            assert await asking.ask("POST", "/runs", {"id": f"run-{n}"}) == 201
            async with Connection(a.url) as producer, asyncio.timeout(PATIENCE):
                lines = producer.follow(f"/runs/run-{n}/control")
                assert b"upToDate" in await anext(lines)
                began = time.perf_counter()
                await asking.send("POST", f"/runs/run-{n}/cancel")
                assert b'"type":"cancel"' in await anext(lines)
                seconds.append(time.perf_counter() - began)
                assert (await asking.head())[0] == 202
    return seconds


async def _each(url: str, requests: list[tuple[str, str, object]], *headers: str) -> list[int]:
    """Asks all of it, over a few connections; the statuses, in no order."""
    statuses: list[int] = []
    left = iter(requests)

    async def work() -> None:
        async with Connection(url) as connection:
            for method, path, body in left:
                statuses.append(await connection.ask(method, path, body, *headers))

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return statuses


async def _beat(url: str, runs: list[str], interval: float) -> None:
    while True:
        began = time.monotonic()
        await _each(url, [("POST", f"{run}/heartbeat", None) for run in runs])
        await asyncio.sleep(max(began + interval - time.monotonic(), 0))


async def _last(url: str, run: str, started: asyncio.Semaphore) -> float:
    """Follows a run to its end; seconds between the last event of its producer and that."""
    last = 0.0
    async with Connection(url) as connection:
        async for data in connection.follow(run):
            if b"streamClosed" in data:
                return time.monotonic() - last
            if b'"token"' in data:
                if not last:
                    started.release()
                last = time.monotonic()
    raise EOFError(f"{run} ended without saying so")


async def _produce(url: str, count: int, lease: int) -> None:
    """Appends to each run again and again, until it is killed. Its first event is what the lease begins with."""
    appends: list[tuple[str, str, object]] = [("POST", f"/runs/doomed-{n}", {"type": "token"}) for n in range(count)]
    while True:
        began = time.monotonic()
        await _each(url, appends, f"run-lease: {lease}")
        await asyncio.sleep(max(began + lease * BEAT - time.monotonic(), 0))


def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def quantile(values: Iterable[float], q: float) -> float:
    """The least value that the share `q` does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def _told(values: list[float]) -> str:
    return ", ".join(f"p{q * 100:g} {quantile(values, q):.4f} s" for q in (0.5, 0.99, 1))


@click.group()
def main() -> None:
    """Leases and cancels, over two Machines that are started here."""


@main.command("leases")
@click.option("--open", default=10_000, help="Leased runs whose producers keep their promises.")
@click.option("--lost", default=500, help="Runs whose producer is killed, with its Machine.")
@click.option("--lease", default=3, help="Seconds.")
def leases_command(open: int, lost: int, lease: int) -> None:
    """How long after the last sign of life the readers of a lost run are told of its end."""

    async def measure() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with EmbeddedPostgres(Path(folder)) as postgres:
                ends = await lose(postgres.dsn, open=open, lost=lost, lease=lease)
        late = sum(seconds > lease + 2 for seconds in ends.seconds)
        click.echo(f"{lost} lost runs, lease {lease} s, {ends.left} of {open} others still open")
        click.echo(f"last event to end: {_told(ends.seconds)}; {late} later than {lease + 2} s")

    asyncio.run(measure())


@main.command("cancel")
@click.option("--count", default=200, help="Cancels.")
def cancel_command(count: int) -> None:
    """How long after a cancel at one Machine a producer at the other has it."""

    async def measure() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with EmbeddedPostgres(Path(folder)) as postgres:
                click.echo(f"{count} cancels: {_told(await cancel(postgres.dsn, count))}")

    asyncio.run(measure())


@main.command("produce", hidden=True)
@click.argument("url")
@click.argument("count", type=int)
@click.argument("lease", type=int)
def produce_command(url: str, count: int, lease: int) -> None:
    """The producer that is killed."""
    asyncio.run(_produce(url, count, lease))


if __name__ == "__main__":
    main()
