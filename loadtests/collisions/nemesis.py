"""What goes on beside the callers: housekeeping as of Machines, sessions that are killed, tables that are reindexed."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg

from loadtests.collisions.history import KEEP, History
from loadtests.collisions.session import NAME, Refused, Session, Unsure

KILLS = "kills"
_TABLES = ("streams", "events", "pages", "producers", "expiries", "leases", "runs", "subscription_links")
_KILL = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1
"""
_KEEP = "SELECT CASE WHEN run_gateway.keeps_house($1, interval '0.5 seconds') THEN run_gateway.{} END"
_STEPS = {
    "purge": _KEEP.format("purge(5000)"),
    "retire": _KEEP.format(f"retire(interval '{KEEP} seconds', 50)"),
    "leases": "SELECT cardinality(paths) FROM run_gateway.end_lost_runs($1, 500, false)",
    "link": """
        SELECT count(*) FROM (SELECT run_gateway.link_next(s.number, 2) AS step FROM run_gateway.subscriptions s
         WHERE $1 <> '') l WHERE l.step = 'more'""",
    "tidy": "SELECT touched FROM run_gateway.tidy_next(0, '', 1000) WHERE $1 <> ''",
    "wake": """
        SELECT count(*) FROM run_gateway.subscriptions s, run_gateway.wake_subscription(s.number, NULL) w
         WHERE $1 <> '' AND w.woken""",
}
BREAK = """
    SELECT ARRAY[extract(epoch FROM l.left_at), extract(epoch FROM l.since)]::float8[]
      FROM run_gateway.lease_looks l WHERE l.left_at IS NOT NULL
"""
_PACKABLE = """
    SELECT ARRAY(SELECT s.id FROM run_gateway.streams s
                  WHERE s.path IS NOT NULL AND NOT s.packed ORDER BY random() LIMIT 5)
"""
_PACK = _KEEP.format("pack_page($2, 2000, 10, 3)")


async def keep_house(url: str, history: History, rng: random.Random, machine: str, over: asyncio.Event) -> None:
    """As one of several Machines, until it is over. `history.done` counts the rows of each step."""
    session = Session(url, history, rng)

    async def ask(step: str, statement: str, *arguments: object, expected: tuple[str, ...] = ()) -> Any:
        """What a step that may be cut short gives; the next one has its turn whatever becomes of it."""
        try:
            return await session.ask(
                step, lambda connection: connection.fetchval(statement, *arguments), expected=expected
            )
        except (Refused, Unsure):
            await session.close()  # the next one draws a limit of its own: a short one must not keep house for ever

    try:
        while not over.is_set():
            for step, statement in _STEPS.items():
                history.done[step] += int(await ask(step, statement, machine) or 0)
            if pause := await ask("break", BREAK):
                history.breaks.append((pause[0], pause[1]))
            for stream in await ask("packable", _PACKABLE) or ():
                history.done["pack"] += bool(await ask("pack", _PACK, machine, stream, expected=("40001",)))
            await asyncio.sleep(rng.uniform(0, 1.0))
    finally:
        await session.close()


async def disturb(url: str, history: History, rng: random.Random, over: asyncio.Event) -> None:
    """Kills sessions, and rebuilds indexes beside them, until it is over."""
    connection = await asyncpg.connect(url)
    try:
        while not over.is_set():
            await asyncio.sleep(rng.uniform(0.1, 0.6))
            if rng.random() < 0.7:
                history.done[KILLS] += await connection.fetchval(f"SELECT count(*) FROM ({_KILL}) k", NAME)
                continue
            table = rng.choice(_TABLES)
            how = rng.choice(("REINDEX TABLE CONCURRENTLY", "VACUUM", "ANALYZE"))
            try:
                await connection.execute(f"{how} run_gateway.{table}", timeout=20)
                history.done[how.split()[0]] += 1
            except (asyncpg.PostgresError, TimeoutError) as error:
                history.errors[f"{how}: {type(error).__name__}"] += 1
    finally:
        connection.terminate()
