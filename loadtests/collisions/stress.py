"""One run, from an empty log to what was found."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import asyncpg

from loadtests.collisions import aftermath
from loadtests.collisions.callers import MIX, SUBSCRIBE, WAKES, Board, Caller
from loadtests.collisions.findings import HOUSEKEEPING
from loadtests.collisions.history import CREATE, READ, History
from loadtests.collisions.judge import judge
from loadtests.collisions.nemesis import disturb, keep_house
from loadtests.collisions.session import Refused, Unsure
from loadtests.survival.ledger import Findings

CALLERS = 14
MACHINES = 2  # that keep house
LOOKS = 0.5  # seconds between two questions whether it is enough
SETTLED = 120.0  # seconds that what is under way may take to end
_WAKES = "SELECT run_gateway.create($1)"
_LINKING = """
    SELECT count(*) FROM (SELECT run_gateway.link_next(s.number, 100) AS step FROM run_gateway.subscriptions s) l
     WHERE l.step <> 'done'
"""
_LOOKED = "SELECT extract(epoch FROM l.at)::float8 FROM run_gateway.lease_looks l"
_QUIET = """
    SELECT count(*) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@dataclass(frozen=True)
class Outcome:
    history: History
    findings: Findings

    def text(self) -> str:
        """What was done, and what is wrong."""
        done = ", ".join(f"{count:,} {what}" for what, count in sorted(self.history.done.items()))
        errors = ", ".join(f"{count:,} {state}" for state, count in sorted(self.history.errors.items()))
        wrong = (
            "\n- ".join(
                ["BROKEN:", *[f"{n:>6,} {k}" for k, n in self.findings.counts.items()], *self.findings.notes[:40]]
            )
            if self.findings.counts
            else "nothing is wrong"
        )
        return f"done: {done}\nerrors: {errors or 'none'}\n{wrong}"


async def collide(
    url: str,
    seed: int,
    seconds: float,
    *,
    mix: Mapping[str, int] = MIX,
    enough: Callable[[History], bool] = lambda _: False,
) -> Outcome:
    """Callers meet in the migrated, empty log at this address for so many seconds; then all of it is judged.

    `mix`: what they do, and how often. `enough`: whether they may stop before their time.
    """
    history, board, rng = History(), Board(), random.Random(seed)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(_WAKES, WAKES)
        await connection.execute(*SUBSCRIBE)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(CALLERS):
                tasks.create_task(Caller(url, board, history, random.Random(rng.random()), number, mix).run(over))
            for number in range(MACHINES):
                tasks.create_task(keep_house(url, history, random.Random(rng.random()), f"m{number}", over))
            tasks.create_task(disturb(url, history, random.Random(rng.random()), over))
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while not enough(history):  # noqa: ASYNC110  nothing tells when a history is long enough
                        await asyncio.sleep(LOOKS)
            over.set()
            await connection.execute(aftermath.STOPPED)
        await _until_quiet(connection)
        history.breaks.append((await connection.fetchval(_LOOKED) or 0.0, math.inf))
        while await connection.fetchval(_LINKING):
            pass
        await _read_all(url, history, rng)
        findings = judge(history)
        findings.include(await aftermath.look(connection))
        idle = [step for step in ("purge", "pack") if not history.done[step] and seconds >= 10 and mix is MIX]
        findings.add(HOUSEKEEPING, f"{' and '.join(idle)} did nothing in all that time", len(idle))
        return Outcome(history, findings)
    finally:
        await connection.close()


async def _until_quiet(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    async with asyncio.timeout(SETTLED):
        while await connection.fetchval(_QUIET):  # noqa: ASYNC110  nobody tells when a session has ended
            await asyncio.sleep(0.02)


async def _read_all(url: str, history: History, rng: random.Random) -> None:
    """What every stream holds, from its beginning to its end, and where the subscription stands."""
    reader = Caller(url, Board(), history, rng, CALLERS, limits=("0",))
    made = {call.path for call in history.calls if call.what in (CREATE, READ)}
    try:
        for path in sorted(made):
            since = 0
            while True:
                call = await reader.read(path, since)
                since += len(call.given)
                if not call.given or since >= call.tail:
                    break
        await reader.look_at_links()
    except (Refused, Unsure):
        history.faults.append(("XX000", "the last reading of all streams"))
    finally:
        await reader.end()
