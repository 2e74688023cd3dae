"""Where measures are taken: a database of one shape, and a Machine that serves it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from gateway.process.machine import Machine
from loadtests.bench.clients.load import Writers, Written
from loadtests.bench.clients.program import Program
from loadtests.bench.processes import family
from loadtests.grown.fill import Shape

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_BACKENDS = """
    SELECT array_agg(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


def used(pids: Iterable[int]) -> dict[int, int]:
    """Nanoseconds that the threads of these processes have had a processor; see proc_pid_schedstat(5)."""
    found: dict[int, int] = {}
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):  # it has ended
                found[pid] = found.get(pid, 0) + int(thread.read_text().split()[0])
    return found


def spent(before: Mapping[int, int]) -> float:
    """Milliseconds of those that have not ended since then."""
    return sum(now - before[pid] for pid, now in used(before).items()) / 1e6


@dataclass
class Place:
    """`url`: of the database; `dumper`: pg_dump; `writers`: the C program that appends."""

    name: str
    url: str
    shape: Shape
    writers: Path
    dumper: Path
    machine: Machine
    chance: random.Random = field(default_factory=lambda: random.Random(20))
    used: int = 0  # runs that were made for measures
    woke: int = 1  # the next run of the past, by tens, to be appended to
    retired: int = 0  # thirtieths of the runs

    async def processes(self) -> list[int]:
        """The Machine, and the sessions of its database."""
        async with self.connected() as look:
            return [*family([self.machine.pid]), *(await look.fetchval(_BACKENDS) or ())]

    def old(self) -> str:
        """The path of any run of the past that has ended."""
        number = self.chance.randrange(self.shape.runs)
        return f"/runs/old-{number if number % 10 else number + 1}"

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def appending(self, connections: int, runs: int, rate: float = 0) -> AsyncIterator[Writers]:
        """Writers to new runs, one event of 64 bytes a request; `rate`: events a second of each run."""
        options: dict[str, object] = {
            "port": self.machine.port, "path": "/runs/new-%r", "connections": connections, "runs": runs,
            "base": self.used, "size": 64,
        }  # fmt: skip
        self.used += runs
        async with Program.start(self.writers, **options, method="PUT", once=1) as program:
            await Writers(program).end()
        if rate:
            options["rate"] = rate
        async with Program.start(self.writers, **options) as program:
            yield Writers(program)

    async def woken(self, runs: int) -> Written:
        """One event to each of so many runs that have been silent for long."""
        async with Program.start(
            self.writers, port=self.machine.port, path="/runs/old-%r0", connections=1, runs=runs, size=64,
            base=self.woke, total=runs,
        ) as program:  # fmt: skip
            self.woke += runs
            return await Writers(program).end()

    async def get(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str
    ) -> tuple[dict[str, str], bytes]:
        """The headers and the body of an answer of 200."""
        writer.write(f"GET {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200"), head
        headers = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
        return headers, await reader.readexactly(int(headers["content-length"]))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.machine.port, limit=1 << 22)
        try:
            yield reader, writer
        finally:
            writer.close()
