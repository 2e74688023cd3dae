"""The least that news through Postgres can take: a bare INSERT and NOTIFY here, a LISTEN callback in another process.

Started without `--listen` it starts the other one itself, paces the inserts, and prints the callback's delays.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import asyncpg
import click
import uvloop

CHANNEL = "bench"
TABLE = "CREATE TABLE events (stream bigint, seq bigint, data bytea NOT NULL, PRIMARY KEY (stream, seq))"
INSERT = (
    "WITH inserted AS (INSERT INTO events VALUES (1, $1, $2) RETURNING seq) SELECT pg_notify('bench', $3) FROM inserted"
)
PATIENCE = 30.0


async def write(database: str, seconds: float, rate: int) -> None:
    """Inserts at even intervals, and reports what the other process has heard."""
    connection = await asyncpg.connect(database)
    await connection.execute(TABLE)
    other = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtests.bench.peers.notify_program", "--listen", "--database", database,
        "--seconds", str(seconds), "--rate", str(rate),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert other.stdout is not None, "it is a pipe"
    try:
        await asyncio.wait_for(other.stdout.readline(), PATIENCE)
        begin = time.monotonic()
        for seq in range(int(seconds * rate)):
            await asyncio.sleep(begin + seq / rate - time.monotonic())
            await connection.execute(INSERT, seq, b"." * 64, f"{time.monotonic():.6f}")
        line = await asyncio.wait_for(other.stdout.readline(), PATIENCE)
    finally:
        if other.returncode is None:
            other.kill()
        await other.wait()
    print(line.decode(), end="", flush=True)
    await connection.close()


async def listen(database: str, count: int) -> None:
    """Prints a line when it listens, and another when it has heard so much."""
    delays: list[float] = []
    done = asyncio.Event()

    def heard(_: object, __: int, ___: str, payload: object) -> None:
        delays.append(time.monotonic() - float(str(payload)))
        if len(delays) == count:
            done.set()

    connection = await asyncpg.connect(database)
    await connection.add_listener(CHANNEL, heard)
    print("{}", flush=True)
    async with asyncio.timeout(count + PATIENCE):
        await done.wait()
    delays.sort()
    print(json.dumps({"p50_ms": delays[count // 2] * 1000, "p99_ms": delays[count * 99 // 100] * 1000}), flush=True)
    await connection.close()


@click.command()
@click.option("--database", required=True)
@click.option("--seconds", type=float, required=True)
@click.option("--rate", type=int, required=True)
@click.option("--listen", "listens", is_flag=True)
def main(database: str, seconds: float, rate: int, listens: bool) -> None:
    uvloop.run(listen(database, int(seconds * rate)) if listens else write(database, seconds, rate))


if __name__ == "__main__":
    main()
