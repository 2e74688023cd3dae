"""What the triggers of `run-gateway flue attach` cost a Flue app: its own appends, with and without them, side by side.

Each writer does what Flue does for an event: begin, UPDATE the stream's tail, INSERT the event, commit. A Machine's
listener listens all the while. Rounds alternate; medians are told. `--flush` makes each commit wait, as a network disk
does: a transaction that notifies holds a lock of the whole database until it is flushed, so such commits go in single
file.

    python -m loadtests.probes.flue_triggers --writers 1,8 --flush 0,2
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from gateway.embedded import EmbeddedPostgres
from gateway.flue import schema
from gateway.log.listener import CHANNEL

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

TABLES = """
CREATE TABLE flue_meta (key text PRIMARY KEY, value text NOT NULL);
INSERT INTO flue_meta VALUES ('schema_version', '4');
CREATE TABLE flue_runs (
    run_id text PRIMARY KEY, workflow_name text NOT NULL, status text NOT NULL, started_at text NOT NULL, payload text,
    traceparent text, tracestate text, ended_at text, is_error boolean, duration_ms integer, result text, error text);
CREATE TABLE flue_event_streams (
    path text PRIMARY KEY, next_offset bigint NOT NULL DEFAULT 0, closed boolean NOT NULL DEFAULT false);
CREATE TABLE flue_event_stream_entries (
    path text NOT NULL, seq bigint NOT NULL, data text NOT NULL, event_key text, PRIMARY KEY (path, seq));
CREATE UNIQUE INDEX flue_event_stream_entries_path_event_key_idx
    ON flue_event_stream_entries (path, event_key) WHERE event_key IS NOT NULL;
"""
EVENT = '{"type":"log","level":"info","message":"tick","attributes":{"pad":"%s"},"v":3,"eventIndex":0}' % ("x" * 200)
TAIL = (
    "UPDATE flue_event_streams SET next_offset = next_offset + 1"
    " WHERE path = $1 AND closed = FALSE RETURNING next_offset"
)
ENTRY = "INSERT INTO flue_event_stream_entries (path, seq, data) VALUES ($1, $2, $3)"


class Round(NamedTuple):
    """Events a second over all writers, and the median milliseconds of one event."""

    rate: float
    milliseconds: float


async def write(connection: Connection, path: str, until: float, took: list[float]) -> None:
    """One Flue server's appends to one run, one after the other."""
    while (began := time.perf_counter()) < until:
        async with connection.transaction():
            tail = await connection.fetchval(TAIL, path)
            await connection.execute(ENTRY, path, tail - 1, EVENT)
        took.append(time.perf_counter() - began)


async def measure(writers: list[Connection], seconds: float) -> Round:
    """One round of all writers at once."""
    took: list[float] = []
    began = time.perf_counter()
    until = began + seconds
    await asyncio.gather(*(write(each, f"runs/run_{i}", until, took) for i, each in enumerate(writers)))
    return Round(len(took) / (time.perf_counter() - began), median(took) * 1000)


async def compare(dsn: str, count: int, rounds: int, seconds: float) -> tuple[Round, Round, float]:
    """Without and with triggers, and the median ratio of their rates."""
    admin = await asyncpg.connect(dsn)
    listening = await asyncpg.connect(dsn)
    await listening.add_listener(CHANNEL, lambda *_: None)
    writers = [await asyncpg.connect(dsn) for _ in range(count)]
    for i in range(count):
        await admin.execute("INSERT INTO flue_event_streams (path) VALUES ($1) ON CONFLICT DO NOTHING", f"runs/run_{i}")
    bare: list[Round] = []
    attached: list[Round] = []
    for _ in range(rounds):
        await schema.detach(admin)
        bare.append(await measure(writers, seconds))
        await schema.attach(admin)
        attached.append(await measure(writers, seconds))
    for connection in (*writers, listening, admin):
        await connection.close()
    ratio = median(with_ / without for (with_, _), (without, _) in zip(attached, bare, strict=True))
    return _median(bare), _median(attached), ratio


def _median(rounds: list[Round]) -> Round:
    return Round(median(each.rate for each in rounds), median(each.milliseconds for each in rounds))


async def main(writers: list[int], flushes: list[float], rounds: int, seconds: float) -> None:
    """Prints one line for each number of writers and each flush."""
    print("| writers | flush, ms | events/s without | with | ratio | p50 ms without | with |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        async with EmbeddedPostgres(Path(folder) / "postgres") as postgres:
            admin = await asyncpg.connect(postgres.dsn)
            await admin.execute(TABLES)
            for flush in flushes:
                # The leader of a flush waits so long before it: with it, whoever holds the lock for notifications.
                await admin.execute(f"ALTER SYSTEM SET commit_delay = {int(flush * 1000)}")
                await admin.execute("ALTER SYSTEM SET commit_siblings = 0")
                await admin.execute("SELECT pg_reload_conf()")
                for count in writers:
                    bare, attached, ratio = await compare(postgres.dsn, count, rounds, seconds)
                    print(
                        f"| {count} | {flush:g} | {bare.rate:,.0f} | {attached.rate:,.0f} | {ratio:.2f}"
                        f" | {bare.milliseconds:.2f} | {attached.milliseconds:.2f} |",
                        flush=True,
                    )
            await admin.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", default="1,8")
    parser.add_argument("--flush", default="0,2", help="milliseconds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    chosen = parser.parse_args()
    asyncio.run(
        main(
            [int(each) for each in chosen.writers.split(",")],
            [float(each) for each in chosen.flush.split(",")],
            chosen.rounds,
            chosen.seconds,
        )
    )
