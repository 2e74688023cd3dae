"""One siege, from an empty database to its report: peace, abuse, peace beside burners, and peace."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.protocol.target import within
from gateway.wire.descriptors import raise_limit
from loadtests.siege.honest import Honest
from loadtests.siege.machines import Besieged, Use, open_machines
from loadtests.siege.orders import HONEST, MALLORY, SEEDED, Orders
from loadtests.siege.report import Report, State
from loadtests.siege.resolver import compile_resolver
from loadtests.siege.times import Span, compare, computed, longest
from loadtests.survival.ledger import EXITS, Findings
from loadtests.survival.stage import Stage
from tests.tools.database import Database, open_database

WARMING = 3.0  # seconds that nothing is measured in
PEACE = 0.25  # of the siege's time, before it and after it
BURNING = 0.5  # of the siege's time: as long as both together
LEAST = 3.0  # seconds of either
CALM = 30.0  # seconds that memory and descriptors have to come back in
GRACE = 45.0  # seconds until attackers that do not end are killed
SCENES, READERS = 2, 5
PULSES = 4
NARROW = ("read", "write", "read,write", "control")  # scopes of the attacker's keys

_SEED = """
    INSERT INTO run_gateway.streams (path, content_type, media_type)
    SELECT $1 || n, 'application/json', 'application/json' FROM generate_series(1, $2) n
"""
_METADATA = """UPDATE run_gateway.runs SET metadata = '{"user": "somebody"}' WHERE tenant = $1"""


@dataclass(frozen=True)
class Plan:
    """What is asked for. `rows`: of issue 13. `streams`: the attacker has before it begins. `event`: bytes."""

    seed: int
    seconds: float
    machines: int
    rows: tuple[int, ...]
    streams: int
    event: int
    logs: Path | None


async def besiege(plan: Plan, tell: Callable[[str], None]) -> Report:
    """Everything is started here and ended here."""
    raise_limit()
    with tempfile.TemporaryDirectory(prefix="siege-") as name:
        os.chmod(name, 0o755)  # Postgres may be another user's
        folder = Path(name)
        resolver = await compile_resolver(folder)
        keys = _keys()
        settings = {"AUTH": "keys", "GATEWAY_KEYS": _settings(keys), "GATEWAY_MAX_EVENT": str(max(plan.event, 1 << 20))}
        if resolver is not None:
            settings["LD_PRELOAD"] = str(resolver)
        async with open_database(None, folder / "postgres") as database:
            await _seed(database, plan.streams)
            async with open_machines(plan.machines, database.url, folder, settings) as machines:
                rows = tuple(row for row in plan.rows if row != 8 or resolver is not None)
                try:
                    return await _siege(plan, rows, keys, machines, tell)
                finally:
                    if plan.logs is not None:
                        plan.logs.mkdir(parents=True, exist_ok=True)
                        for number, each in enumerate(machines):
                            (plan.logs / f"machine-{number}.log").write_text(each.machine.log)


async def _siege(
    plan: Plan, rows: Sequence[int], keys: Mapping[str, str], machines: Sequence[Besieged], tell: Callable[[str], None]
) -> Report:
    rng, findings = random.Random(plan.seed), Findings()
    doors = tuple(each.machine.url for each in machines)
    honest = Honest(doors, keys[HONEST], random.Random(rng.random()), findings, PULSES)
    stage = Stage(
        doors, None, random.Random(rng.random()), findings, lambda: None, READERS,
        {"authorization": f"Bearer {keys[HONEST]}"},
    )  # fmt: skip
    working = asyncio.gather(honest.work(), stage.play(SCENES))
    try:
        peace = max(LEAST, PEACE * plan.seconds)
        await _while(working, WARMING)
        tell(f"peace, {peace:.0f} s")
        began = time.monotonic()
        await _while(working, peace)
        before = [each.use() for each in machines]
        for each in machines:
            each.forget_peak()
        quiet: list[Span] = [(began, time.monotonic())]
        tell(f"siege, {plan.seconds:.0f} s: rows {', '.join(map(str, rows))}")
        began, reaped = time.monotonic(), _reaped()
        attacks = await _attack(plan, rows, keys, doors, working)
        siege: list[Span] = [(began, time.monotonic())]
        taken = (_reaped() - reaped) / plan.seconds
        most = [each.peak() for each in machines]
        tell("waiting for what was used to come back")
        back = await _settle(machines, before)
        long = max(LEAST, BURNING * plan.seconds)
        tell(f"peace beside burners, which take {taken:.2f} of a processor, {long:.0f} s")
        began, reaped = time.monotonic(), _reaped()
        await _burn(taken, len(rows), long, working)
        burnt: list[Span] = [(began, time.monotonic())]
        burning = (_reaped() - reaped) / long
        tell(f"peace, {peace:.0f} s")
        began = time.monotonic()
        await _while(working, peace)
        quiet.append((began, time.monotonic()))
        after = [each.use() for each in machines]
    finally:
        honest.over = True
        stage.stop()
        await _end(working)
    for number, each in enumerate(machines):
        findings.add(EXITS, f"Machine {number} has ended:\n{each.machine.log[-2000:]}", int(not each.machine.running))
    found = [turn for each in machines for turn in each.turns()]
    answered = [answer for each in machines for answer in each.appends()]
    return Report(
        plan.seconds,
        attacks,
        taken,
        burning,
        compare(honest.times, quiet, burnt, siege),
        (longest(found, quiet), longest(found, siege)),
        (computed(answered, quiet), computed(answered, burnt), computed(answered, siege)),
        [State(*each) for each in zip(before, most, after, strict=True)],
        back,
        [each.machine.log for each in machines],
        (honest.seen, stage.seen),
        stage.runs,
        findings,
    )


async def _while(working: asyncio.Future[tuple[None, None]], seconds: float) -> None:
    """Sleeps, unless the honest have ended. Raises what they have failed with."""
    await asyncio.wait((working,), timeout=seconds)
    if working.done():
        working.result()
        raise RuntimeError("the honest have ended before their time")


async def _end(working: asyncio.Future[tuple[None, None]]) -> None:
    try:
        async with asyncio.timeout(180):
            await working
    except TimeoutError:
        raise RuntimeError("the honest did not come to an end") from None


async def _attack(
    plan: Plan,
    rows: Sequence[int],
    keys: Mapping[str, str],
    urls: tuple[str, ...],
    working: asyncio.Future[tuple[None, None]],
) -> Mapping[int, Counter[str]]:
    """What each row's attackers say that they have done."""
    async with asyncio.TaskGroup() as tasks:
        told = {row: tasks.create_task(_attacker(Orders(row, urls, keys, plan.seconds, plan.event))) for row in rows}
        await _while(working, plan.seconds)
    return {row: task.result() for row, task in told.items()}


async def _attacker(orders: Orders) -> Counter[str]:
    async with _process("attacks") as process:
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        process.stdin.write(orders.line())
        with suppress(TimeoutError):
            async with asyncio.timeout(orders.seconds + GRACE):
                line = await process.stdout.readline()
                return Counter(json.loads(line or "{}"))
        return Counter({"did not end": 1})


async def _burn(share: float, count: int, seconds: float, working: asyncio.Future[tuple[None, None]]) -> None:
    """Has as many processes as there are rows take together what attackers took of the processors."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(_process("burner", str(share / count), str(seconds)))
        await _while(working, seconds)


def _reaped() -> float:
    """Seconds of CPU of all children that have ended and were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@asynccontextmanager
async def _process(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A part of the siege, which is ended with the block."""
    program, *arguments = command
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"loadtests.siege.{program}", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _settle(machines: Sequence[Besieged], before: Sequence[Use]) -> float | None:
    """Seconds until all use about as much as before; None: they still use more after CALM."""
    began = time.monotonic()
    while time.monotonic() - began < CALM:
        now = [each.use() for each in machines]
        if all(State(was, 0, then).back for was, then in zip(before, now, strict=True)):
            return time.monotonic() - began
        await asyncio.sleep(0.5)
    return None


def _keys() -> dict[str, str]:
    """Secrets of the attacker's by scope, and one of the honest ones' tenant."""
    return {scope: secrets.token_hex(20) for scope in (*NARROW, HONEST)}


def _settings(keys: Mapping[str, str]) -> str:
    narrow = [f"k{number}@{MALLORY}:{scope}:{keys[scope]}" for number, scope in enumerate(NARROW)]
    return " ".join([*narrow, f"{HONEST}@{HONEST}:read,write,control:{keys[HONEST]}"])


async def _seed(database: Database, streams: int) -> None:
    async with database.connection() as connection:
        await connection.execute(_SEED, within(MALLORY, f"runs/{SEEDED}-"), streams)
        await connection.execute(_METADATA, MALLORY)
        await connection.execute("ANALYZE run_gateway.streams, run_gateway.runs")
