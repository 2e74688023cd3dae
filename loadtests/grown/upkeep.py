"""What a database is put through while it is in use: how long it takes, and what those who append notice of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.log import migrations
from gateway.log.database import Database
from gateway.log.housekeeping import Housekeeping
from loadtests.bench.clients.load import Writers
from loadtests.grown.fill import DAYS
from loadtests.grown.places import Place, spent, used

BEFORE: Final = 5.0  # seconds of appends that nothing disturbs
RATE: Final = 4.0  # events a second of each of RUNS runs
RUNS: Final = 64
DUMPING: Final = 60.0  # seconds
COPIED: Final = "SELECT max(tuples_processed) FROM pg_stat_progress_copy WHERE relid = 'run_gateway.pages'::regclass"
UNDO: Final = """
    ALTER TABLE run_gateway.housekeeping DROP COLUMN quiet_before, DROP COLUMN quiet_next, DROP COLUMN quiet_since;
    ALTER TABLE run_gateway.recordings DROP COLUMN conversation;
    DELETE FROM run_gateway.migrations WHERE name IN ('0025_silence.sql', '0026_conversations.sql');
"""


@dataclass(frozen=True)
class Disturbed:
    """`figure`: what the work itself came to. Milliseconds: an append's p50 and p99 before it, and while it went on."""

    name: str
    figure: str
    before: tuple[float, float]
    during: tuple[float, float]


async def retire(place: Place) -> str:
    """Removes the thirtieth of the runs that ended first."""
    place.retired += 1
    count = "SELECT count(*) FROM run_gateway.streams WHERE path IS NOT NULL"
    async with place.connected() as look:
        before = await look.fetchval(count)
        others = await place.processes()
        database = Database(place.url, pool_size=1, statement_timeout=60)
        await database.open()
        try:
            housekeeping = Housekeeping(
                database, machine="grown", interval=1, pack=False, retention=DAYS * 86_400 * (1 - place.retired / 30)
            )
            await look.execute("UPDATE run_gateway.housekeeping SET until = now()")
            session, began = used(set(await place.processes()) - set(others)), time.perf_counter()
            await housekeeping.round()
            seconds, cpu = time.perf_counter() - began, spent(session)
        finally:
            await database.close()
        removed = before - await look.fetchval(count)
    events = removed * place.shape.each
    return f"{removed:,} runs, {events / seconds:,.0f} events/s, {cpu / removed * 1e3:.0f} µs of CPU a run"


async def vacuum(place: Place) -> str:
    """What autovacuum does, at its pace, to all tables that are appended to."""
    began = time.perf_counter()
    async with place.connected() as connection:
        await connection.execute("SET vacuum_cost_delay = '2ms'")
        for table in ("streams", "events", "pages", "runs", "producers"):
            await connection.execute(f"VACUUM (ANALYZE) run_gateway.{table}")
    return f"{time.perf_counter() - began:.1f} s"


async def dump(place: Place) -> str:
    """At most DUMPING of one: a page is read, taken apart, and written as text."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(place.dumper), "--format=custom", "--compress=none", place.url, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with place.connected() as look:
            dumped, pages = 0, await look.fetchval("SELECT count(*) FROM run_gateway.pages")
            while process.returncode is None and time.perf_counter() < began + DUMPING:
                await asyncio.sleep(0.2)
                dumped = await look.fetchval(COPIED) or dumped
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    seconds = time.perf_counter() - began
    if process.returncode == 0:
        return f"{seconds:.1f} s"
    return f"{dumped / pages:.0%} of the pages in {seconds:.0f} s, then ended"


async def migrate(place: Place) -> str:
    """All functions, and the last changes of tables, anew."""
    async with place.connected() as connection:
        await connection.execute(UNDO)
        await connection.execute("DELETE FROM run_gateway.migrations WHERE name = $1", migrations.functions())
    began = time.perf_counter()
    applied = await migrations.migrate(place.url)
    assert len(applied) == 3
    return f"{time.perf_counter() - began:.2f} s"


UPKEEP: Final[dict[str, Callable[[Place], Awaitable[str]]]] = {
    "migrate": migrate,
    "pg_dump": dump,
    "VACUUM and ANALYZE, as autovacuum": vacuum,
    "retention of a thirtieth of the runs": retire,
    "retention of another thirtieth": retire,
    "retention of a third one": retire,
    "VACUUM after it": vacuum,
}


async def disturb(place: Place, name: str) -> Disturbed:
    """Does one of these while appends come at a steady rate."""
    async with place.appending(16, RUNS, RATE) as writers:
        await asyncio.sleep(1)
        before = await _seen(writers, asyncio.sleep(BEFORE, "nothing"))
        during = await _seen(writers, UPKEEP[name](place))
        await writers.stop()
    return Disturbed(name, during[0], before[1:], during[1:])


async def _seen(writers: Writers, work: Awaitable[str]) -> tuple[str, float, float]:
    await writers.mark()
    figure = await work
    done = await writers.stats()
    return figure, done.latency.milliseconds(0.5), done.latency.milliseconds(0.99)
