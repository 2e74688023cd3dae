"""`python -m loadtests.packing`: a recorded chat run, repeated: bytes on disk and catch-up, as rows and as pages.

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
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path
from typing import Final
from zlib import crc32

import asyncpg
import click

from gateway.cli.machine import Machine
from gateway.log.database import Database
from gateway.log.embedded import EmbeddedPostgres
from gateway.log.housekeeping import Housekeeping
from gateway.log.lifecycle import Lifecycle
from gateway.log.migrations import migrate
from gateway.log.writer import Writer
from gateway.protocol.batch import JSON_TYPE
from gateway.protocol.request import AppendRequest, CreateRequest
from loadtests.bench.processes import memory, peak, reset_peak

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
    peak: int

    @property
    def rate(self) -> float:
        return self.bytes / self.seconds / 1e6


@dataclass
class Store:
    """A database, and checksums of what was written to each of its runs."""

    url: str
    checksums: list[int]
    bytes: int = 0

    async def write(self, total: int) -> None:
        """Makes the runs and closes them. Not by HTTP, for this is not what is measured."""
        each = total // len(self.checksums)
        async with _database(self.url) as database:
            lifecycle = Lifecycle(database, machine="loadtest")
            writer = Writer(
                database, machine=lambda: None, lanes=1, timeout=60, max_pending=1 << 30,
                on_commit=lambda _: None, on_doubt=lambda _: None,
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
            began = time.perf_counter()
            size = 0
            reader, writer = await asyncio.open_connection("127.0.0.1", machine.port, limit=1 << 22)
            for run, expected in enumerate(self.checksums):
                checksum, length = await _catch_up(reader, writer, f"/runs/packed-{run}")
                assert checksum == expected, f"run {run} is not what was written"
                size += length
            seconds = time.perf_counter() - began
            writer.close()
            return Read(size, seconds, peak([machine.pid]) - idle)
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


async def _disk(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    """Bytes of events, with their indexes and TOAST, once VACUUM has given back what is free."""
    for table in ("events", "pages"):
        await connection.execute(f"VACUUM (TRUNCATE) run_gateway.{table}")
    size = await connection.fetchval(
        "SELECT pg_total_relation_size('run_gateway.events') + pg_total_relation_size('run_gateway.pages')"
    )
    assert isinstance(size, int)
    return size


async def _pack(url: str) -> tuple[int, float]:
    """Packs everything, with all its pauses; pages and seconds."""
    async with _database(url) as database:
        housekeeping = Housekeeping(database, machine="loadtest", interval=1)
        began = time.perf_counter()
        await housekeeping.round()
        return housekeeping.packed, time.perf_counter() - began


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[Database]:
    database = Database(url, pool_size=2, statement_timeout=60)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


async def _measure(total: int, runs: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="run-gateway-packing-") as name:
        async with EmbeddedPostgres(Path(name) / "postgres") as postgres:
            await migrate(postgres.dsn)
            connection = await asyncpg.connect(postgres.dsn)
            store = Store(postgres.dsn, [0] * runs)
            await store.write(total)
            rows = await _disk(connection)
            as_rows = [await store.read() for _ in range(rounds)]
            pages, seconds = await _pack(store.url)
            assert await connection.fetchval("SELECT count(*) FROM run_gateway.events") == 0
            packed = await _disk(connection)
            as_pages = [await store.read() for _ in range(rounds)]
            compression = await connection.fetchval("SELECT pg_column_compression(body) FROM run_gateway.pages LIMIT 1")
            await connection.close()
    total -= total % runs
    print(f"{total:,} events in {runs:,} runs, {store.bytes / total:.0f} bytes an event; Postgres {postgres.version},")
    print(f"{compression or 'not compressed'}. Packed in {seconds:.0f} s, pauses included, into {pages:,} pages.\n")
    print("| | rows | pages |\n|---|---|---|")
    print(f"| bytes on disk an event | {rows / total:.0f} | {packed / total:.1f} |")
    print(f"| catch-up, MB/s | {_median(as_rows):.0f} | {_median(as_pages):.0f} |")
    grown = [max(read.peak for read in reads) / 1e6 for reads in (as_rows, as_pages)]
    print(f"| memory that the Machine took for it, MB | {grown[0]:.0f} | {grown[1]:.0f} |")


def _median(reads: list[Read]) -> float:
    return statistics.median(read.rate for read in reads)


@click.command()
@click.option("--events", "total", default=1_000_000, show_default=True, type=click.IntRange(1))
@click.option("--runs", default=1, show_default=True, type=click.IntRange(1), help="Runs that they are divided among.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Reads whose median is told.")
def main(total: int, runs: int, rounds: int) -> None:
    """Bytes on disk and catch-up of closed runs, before and after they are packed."""
    asyncio.run(_measure(total, runs, rounds))


if __name__ == "__main__":
    main()
