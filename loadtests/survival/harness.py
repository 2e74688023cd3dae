"""One run of the harness, from an empty database to its report."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Container
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from loadtests.survival import flue, schedule
from loadtests.survival.fleet import open_fleet
from loadtests.survival.ledger import CUT_OFF, GROWTH, Findings
from loadtests.survival.nemesis import Nemesis
from loadtests.survival.report import Report
from loadtests.survival.soak import Growth, Samples
from loadtests.survival.stage import Stage
from tests.tools.database import open_database

SETTLING = 1.5  # seconds of traffic before and after a deploy


@dataclass(frozen=True)
class Plan:
    """What is asked for. `soak`: the last Machine's process is spared, and must stay as it was."""

    seed: int
    seconds: float
    machines: int
    scenes: int
    readers: int
    rolling: bool
    soak: bool
    patience: float
    program: str
    flue: Path | None  # the folder of a built app
    logs: Path | None
    database_url: str | None


async def survive(plan: Plan, tell: Callable[[str], None]) -> Report:
    """Everything is started here and ended here. It stops early when something was found to be wrong."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="survival-") as folder:
        async with (
            open_database(plan.database_url, Path(folder) / "postgres") as database,
            nullcontext() if plan.flue is None else flue.open_app(plan.flue, database) as app,
            open_fleet(database, Path(folder), plan.machines, plan.program, flue.SETTINGS if app else None) as fleet,
        ):
            over = asyncio.Event()
            stage = Stage(
                fleet.doors, app, random.Random(plan.seed), fleet.findings, over.set, plan.readers,
                database=database, patience=plan.patience,
            )  # fmt: skip
            nemesis = Nemesis(fleet, app, stage.paths, tell)
            samples = Samples()
            playing = asyncio.create_task(stage.play(plan.scenes))
            playing.add_done_callback(lambda _: over.set())
            attack = asyncio.create_task(_attack(plan, nemesis, fleet.left_out))
            watching = asyncio.create_task(samples.watch(fleet.sites[-1].machine.pid)) if plan.soak else None
            try:
                await _until(attack, over)
                stage.stop()
                await _until(playing, over)
                fleet.miss()
            finally:
                if plan.logs is not None:
                    fleet.tell(plan.logs)
                for task in (attack, playing, watching):
                    await _end(task)
            growth = _growth(fleet.findings, samples) if plan.soak else None
            if plan.rolling:
                fleet.findings.add(CUT_OFF, "responses broke off in the middle", stage.seen.cuts)
            return Report(
                plan.seed,
                time.monotonic() - began,
                nemesis.done,
                {} if plan.rolling else fleet.left_out,
                stage.runs,
                stage.read,
                stage.seen,
                stage.rounds(),
                fleet.findings,
                fleet.exits,
                growth,
            )


async def _attack(plan: Plan, nemesis: Nemesis, left_out: Container[str]) -> None:
    if not plan.rolling:
        kinds = [kind for kind in schedule.KINDS if kind not in left_out]
        kinds += schedule.OF_FLUE if plan.flue else ()
        spared = plan.machines - 1 if plan.soak else None
        await nemesis.play(schedule.draw(plan.seed, plan.seconds, kinds, plan.machines, spared))
        return
    end = time.monotonic() + plan.seconds
    while time.monotonic() < end:
        await asyncio.sleep(SETTLING)
        await nemesis.roll()
    await asyncio.sleep(SETTLING)


async def _until(work: asyncio.Task[None], over: asyncio.Event) -> None:
    """Waits for the work's end, or until there is nothing more to wait for."""
    told = asyncio.create_task(over.wait())
    await asyncio.wait((work, told), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()


async def _end(task: asyncio.Task[None] | None) -> None:
    """Raises what the task has failed with."""
    if task is not None:
        task.cancel()  # does nothing when it has ended
        with suppress(asyncio.CancelledError):
            await task


def _growth(findings: Findings, samples: Samples) -> Growth:
    growth = Growth.of(samples)
    findings.add(GROWTH, f"a Machine has grown: {growth}", int(not growth.flat))
    return growth
