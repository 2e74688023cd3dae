"""`python -m loadtests.probes.packing`: a recorded chat run, repeated: bytes on disk and catch-up, rows beside pages.

A Postgres of its own (fsync on), a real Machine that is read over HTTP page by page, and the checksum of all that is
read compared with that of what was written. No repetition equals another: ids, counters and times are each one's own.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit
from zlib import crc32

import asyncpg
import click

from gateway.embedded import EmbeddedPostgres
from gateway.feed import Feed
from gateway.log.database import Database
from gateway.log.housekeeping import Housekeeping
from gateway.log.lifecycle import Lifecycle
from gateway.log.migrations import migrate
from gateway.log.writer import Writer
from gateway.process.machine import Machine
from gateway.protocol.append import AppendRequest
from gateway.protocol.batch import JSON_TYPE
from gateway.protocol.create import CreateRequest
from loadtests.bench.processes import cpu, memory, peak, reset_peak
from tests.log.rig import Others

BATCH: Final = 5_000  # events of one append
RUN_ID: Final = re.compile(rb"run_[0-9A-Z]{26}")
OTHER_ID: Final = re.compile(rb"\b(op|conv|turn|msg|call|tool)_[0-9A-Z]{26}")
EPOCH: Final = datetime(2026, 11, 23, tzinfo=UTC)


def events(count: int, run: int) -> Iterator[bytes]:
    """The recording again and again, each time with its own ids, counters and times."""
    recorded = json.loads((files("gateway") / "recordings" / "chat.json").read_text())
    for index in range(count):
        repetition, place = divmod(index, len(recorded))
        at = EPOCH + timedelta(milliseconds=23 * index)
        event = {**recorded[place], "eventIndex": index, "timestamp": at.isoformat(timespec="milliseconds")}
        text = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
        text = RUN_ID.sub(b"run_" + _ulid(run, 0), text)
        yield OTHER_ID.sub(lambda found, n=repetition: found[1] + b"_" + _ulid(run, n), text)  # type: ignore[misc]


def _ulid(run: int, number: int) -> bytes:
    return b"01M8" + blake2b(b"%d %d" % (run, number), digest_size=11).hexdigest().upper().encode()


@dataclass
class Read:
    """What one catch-up of everything has shown."""

    bytes: int
    seconds: float
    machine: float  # seconds of CPU
    postgres: float
    peak: int  # bytes that the Machine took for it


@dataclass
class Store:
    """A database, and checksums of what was written to each of its runs."""

    url: str
    postgres: int  # its process
    checksums: list[int]
    bytes: int = 0

    async def write(self, total: int) -> None:
        """Makes the runs and closes them. Not by HTTP, for this is not what is measured."""
        each = total // len(self.checksums)
        async with _database(self.url) as database:
            lifecycle = Lifecycle(database, machine="loadtest")
            writer = Writer(
                database, others=Others(), lanes=1, timeout=60, max_pending=1 << 30, pack=False,
                feed=Feed(),
            )  # fmt: skip
            for run in range(len(self.checksums)):
                path = f"runs/packed-{run}"
                await lifecycle.create(CreateRequest(path, JSON_TYPE, None, None, None, False, None, b""))
                batch: list[bytes] = []
                for index, event in enumerate(events(each, run), 1):
                    self.checksums[run] = crc32(b"," + event if index > 1 else event, self.checksums[run])
                    self.bytes += len(event)
                    batch.append(event)
                    if len(batch) == BATCH or index == each:
                        await writer.append(AppendRequest(path, JSON_TYPE, batch, index == each))
                        batch = []
            await writer.close()

    async def read(self) -> Read:
        """Everything, by one client of a Machine that has just started. Raises AssertionError when a byte differs."""
        machine = Machine({"DATABASE_URL": self.url, "GATEWAY_PACK": "false", "GATEWAY_LOG_LEVEL": "warning"})
        await machine.launch()
        try:
            reset_peak([machine.pid])
            idle = memory([machine.pid])
            before = [cpu([pid]).total for pid in (machine.pid, self.postgres)]
            began = time.perf_counter()
            size = 0
            reader, writer = await asyncio.open_connection("127.0.0.1", machine.port, limit=1 << 22)
            for run, expected in enumerate(self.checksums):
                checksum, length = await _catch_up(reader, writer, f"/runs/packed-{run}")
                assert checksum == expected, f"run {run} is not what was written"
                size += length
            seconds = time.perf_counter() - began
            writer.close()
            used = [cpu([pid]).total - old for pid, old in zip((machine.pid, self.postgres), before, strict=True)]
            return Read(size, seconds, used[0], used[1], peak([machine.pid]) - idle)
        finally:
            await machine.kill()


async def _catch_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> tuple[int, int]:
    checksum, size, offset, closed = 0, 0, "-1", False
    while not closed:
        writer.write(f"GET {path}?offset={offset} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200"), head
        headers = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
        body = await reader.readexactly(int(headers["content-length"]))
        checksum = crc32(memoryview(body)[1:-1], crc32(b"," if size else b"", checksum))
        size += len(body)
        offset = headers["stream-next-offset"]
        closed = headers.get("stream-closed") == "true"
    return checksum, size


async def _disk(url: str) -> int:
    """Bytes of events, with their indexes and TOAST, once VACUUM has given back what is free."""
    connection = await asyncpg.connect(url)
    for table in ("events", "pages"):
        await connection.execute(f"VACUUM (TRUNCATE) run_gateway.{table}")
    size = await connection.fetchval(
        "SELECT pg_total_relation_size('run_gateway.events') + pg_total_relation_size('run_gateway.pages')"
    )
    await connection.close()
    assert isinstance(size, int)
    return size


async def _pack(url: str) -> tuple[int, float]:
    """Packs everything, with all its pauses; pages and seconds."""
    async with _database(url) as database:
        housekeeping = Housekeeping(database, machine="loadtest", interval=1)
        began = time.perf_counter()
        await housekeeping.round()
        return housekeeping.packed, time.perf_counter() - began


def _database(url: str) -> Database:
    return Database(url, pool_size=2, statement_timeout=60)


async def _measure(total: int, runs: int, rounds: int) -> None:
    total -= total % runs
    with tempfile.TemporaryDirectory(prefix="run-gateway-packing-") as name:
        async with EmbeddedPostgres(Path(name) / "postgres") as postgres:
            assert postgres.pid is not None, "it is ours"
            await migrate(postgres.dsn)
            rows = Store(postgres.dsn, postgres.pid, [0] * runs)
            await rows.write(total)
            pages = replace(rows, url=urlunsplit(urlsplit(postgres.dsn)._replace(path="/packed")))
            maintenance = await asyncpg.connect(urlunsplit(urlsplit(postgres.dsn)._replace(path="/template1")))
            await maintenance.execute(f"CREATE DATABASE packed TEMPLATE {urlsplit(postgres.dsn).path[1:]}")
            await maintenance.close()
            packed, seconds = await _pack(pages.url)
            disk = [await _disk(store.url) for store in (rows, pages)]
            reads = [(await rows.read(), await pages.read()) for _ in range(rounds)]  # in turn: moods are shared
            version = postgres.version
    print(f"{total:,} events in {runs:,} runs, {rows.bytes / total:.0f} bytes an event; Postgres {version}.")
    print(f"Packed in {seconds:.0f} s, pauses included, into {packed:,} pages.\n")
    print("| | rows | pages | ratio |\n|---|---|---|---|")
    _row("bytes on disk an event", [(disk[0] / total, disk[1] / total)])
    _row("catch-up, MB/s", [(a.bytes / a.seconds / 1e6, b.bytes / b.seconds / 1e6) for a, b in reads])
    _row("CPU of Postgres, ms a MB", [(a.postgres / a.bytes * 1e9, b.postgres / b.bytes * 1e9) for a, b in reads])
    _row("CPU of the Machine, ms a MB", [(a.machine / a.bytes * 1e9, b.machine / b.bytes * 1e9) for a, b in reads])
    _row("memory that the Machine took for it, MB", [(a.peak / 1e6, b.peak / 1e6) for a, b in reads])


def _row(name: str, values: list[tuple[float, float]]) -> None:
    """The medians of the rounds, and of their ratios."""
    rows, pages = (statistics.median(column) for column in zip(*values, strict=True))
    ratio = statistics.median(b / a for a, b in values)
    print(f"| {name} | {rows:.3g} | {pages:.3g} | {ratio:.2f} |")


@click.command()
@click.option("--events", "total", default=1_000_000, show_default=True, type=click.IntRange(1))
@click.option("--runs", default=1, show_default=True, type=click.IntRange(1), help="Runs that they are divided among.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Reads whose median is told.")
def main(total: int, runs: int, rounds: int) -> None:
    """Bytes on disk and catch-up of closed runs, before and after they are packed."""
    asyncio.run(_measure(total, runs, rounds))


if __name__ == "__main__":
    main()
