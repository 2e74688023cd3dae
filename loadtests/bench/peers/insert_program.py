"""Appends without a gateway, in a process of their own: `--path insert` or `--path flue`.

insert: rows of all that wait go in one statement, over two sessions; the least that any durable log here must do.
flue: what Flue's SQL store does for each event: one transaction with an UPDATE … RETURNING and an INSERT, over the
ten sessions that its driver's pool has.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import asyncpg
import click
import uvloop

TABLES = """
DROP TABLE IF EXISTS events, flue_event_streams, flue_event_stream_entries;
CREATE TABLE events (stream bigint, seq bigint, data bytea NOT NULL, PRIMARY KEY (stream, seq));
CREATE TABLE flue_event_streams (path text PRIMARY KEY, next_offset bigint NOT NULL, closed boolean NOT NULL);
CREATE TABLE flue_event_stream_entries (
    path text, seq bigint, data text NOT NULL, event_key text, PRIMARY KEY (path, seq));
CREATE UNIQUE INDEX ON flue_event_stream_entries (path, event_key) WHERE event_key IS NOT NULL;
"""
INSERT = "INSERT INTO events SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])"
NUMBER = (
    "UPDATE flue_event_streams SET next_offset = next_offset + $2 WHERE path = $1 AND NOT closed RETURNING next_offset"
)
ENTRY = "INSERT INTO flue_event_stream_entries (path, seq, data) VALUES ($1, $2, $3)"
ENTRIES = "INSERT INTO flue_event_stream_entries (path, seq, data) SELECT $1, * FROM unnest($2::bigint[], $3::text[])"
INSERT_SESSIONS = 2
FLUE_SESSIONS = 10


@dataclass
class Task:
    """What is to be done, and what was: seconds for each statement or transaction that fell into the measurement."""

    connections: int
    runs: int
    batch: int
    size: int
    begin: float = 0.0
    end: float = 0.0
    events: int = 0
    took: list[float] = field(default_factory=list)

    def done(self, started: float, events: int) -> None:
        now = time.perf_counter()
        if self.begin <= started and now <= self.end:
            self.events += events
            self.took.append(now - started)

    @property
    def event(self) -> bytes:
        return b'{"p":"%b"}' % (b"." * (self.size - 8))


async def insert(task: Task, pool: asyncpg.Pool, session: int, sessions: int) -> None:
    """One session of the group commit: its share of all that wait, again and again."""
    rows = max(task.connections // sessions, 1) * task.batch
    # Each of its runs gets a batch in turn, as from writers that take turns with theirs.
    mine = list(range(session, task.runs, sessions)) or [session]
    next_seq = dict.fromkeys(mine, 1)
    turn = 0
    events = [task.event] * rows
    async with pool.acquire() as connection:
        while (started := time.perf_counter()) < task.end:
            streams: list[int] = []
            seqs: list[int] = []
            for _ in range(rows // task.batch):
                run = mine[turn % len(mine)]
                turn += 1
                streams += [run] * task.batch
                seqs += range(next_seq[run], next_seq[run] + task.batch)
                next_seq[run] += task.batch
            await connection.execute(INSERT, streams, seqs, events)
            task.done(started, rows)


async def flue(task: Task, pool: asyncpg.Pool, writer: int, writers: int) -> None:
    """One of the writers: a run of its own after the other, a transaction for each request."""
    mine = list(range(writer, task.runs, writers))
    data = [task.event.decode()] * task.batch
    turn = 0
    while (started := time.perf_counter()) < task.end:
        path = f"runs/b{mine[turn % len(mine)]}"
        turn += 1
        async with pool.acquire() as connection, connection.transaction():
            offset = await connection.fetchval(NUMBER, path, task.batch)
            if task.batch == 1:
                await connection.execute(ENTRY, path, offset, data[0])
            else:
                await connection.execute(ENTRIES, path, list(range(offset - task.batch, offset)), data)
        task.done(started, task.batch)


async def run(task: Task, database: str, path: str, seconds: float) -> None:
    work: Callable[[Task, asyncpg.Pool, int, int], Awaitable[None]]
    if path == "insert":
        work, sessions = insert, min(INSERT_SESSIONS, task.connections)
        workers = sessions
    else:
        work, sessions, workers = flue, min(FLUE_SESSIONS, task.connections), task.connections
    async with asyncpg.create_pool(database, min_size=sessions, max_size=sessions) as pool:
        await pool.execute(TABLES)
        await pool.executemany(
            "INSERT INTO flue_event_streams VALUES ($1, 0, false)", [(f"runs/b{n}",) for n in range(task.runs)]
        )
        task.begin = time.perf_counter() + seconds / 3
        task.end = task.begin + seconds
        await asyncio.gather(*(work(task, pool, number, workers) for number in range(workers)))
    took = sorted(task.took)
    line = {
        "per_s": task.events / seconds,
        "p50_ms": took[len(took) // 2] * 1000,
        "p99_ms": took[len(took) * 99 // 100] * 1000,
    }
    print(json.dumps(line), flush=True)


@click.command()
@click.option("--database", required=True)
@click.option("--path", type=click.Choice(["insert", "flue"]), required=True)
@click.option("--seconds", type=float, required=True)
@click.option("--connections", type=int, required=True)
@click.option("--runs", type=int, required=True)
@click.option("--batch", type=int, required=True)
@click.option("--size", type=int, required=True)
def main(database: str, path: str, seconds: float, connections: int, runs: int, batch: int, size: int) -> None:
    uvloop.run(run(Task(connections, runs, batch, size), database, path, seconds))


if __name__ == "__main__":
    main()
