"""One run of the harness, from an empty database to its report."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from loadtests.survival import flue, relayed, schedule
from loadtests.survival.calm import Calm
from loadtests.survival.chores import CHORES, Chore, Lists
from loadtests.survival.cluster import Cluster, open_cluster
from loadtests.survival.fleet import open_fleet
from loadtests.survival.fresh import Fresh, LateLists
from loadtests.survival.houses import open_houses
from loadtests.survival.lagging import LaggingStage
from loadtests.survival.ledger import CUT_OFF, GROWTH, Findings
from loadtests.survival.nemesis import Nemesis
from loadtests.survival.report import Report
from loadtests.survival.soak import Growth, Samples
from loadtests.survival.stage import Stage
from loadtests.survival.upstream import Upstream, open_upstream
from tests.tools.database import Database, open_database

SETTLING = 1.5  # seconds of traffic before and after a deploy


@dataclass(frozen=True)
class Plan:
    """What is asked for. `soak`: the last Machine's process is spared, and must stay as it was. `failovers`: Postgres
    has a synchronous standby, which takes over; `lagging`: it is none, and what it lacks is lost. `replica`: Machines
    read at another one.
    """

    seed: int
    seconds: float
    pause: float
    machines: int
    scenes: int
    readers: int
    rolling: bool
    failovers: bool
    lagging: bool
    replica: bool
    soak: bool
    patience: float
    retention: float
    program: str
    flue: Path | None  # the folder of a built app
    chores: Sequence[str]  # that are done beside the runs; none: all
    relay: bool
    owned: bool
    only: Sequence[str]  # kinds of faults; none: all that can be here
    logs: Path | None
    database_url: str | None

    def asks_for(self, kind: str) -> bool:
        """True for the faults that are drawn, where they can be."""
        return not self.only or kind in self.only


async def survive(plan: Plan, tell: Callable[[str], None]) -> Report:
    """Everything is started here and ended here. It stops early when something was found to be wrong."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="survival-") as folder:
        async with (
            _open_database(plan, Path(folder) / "postgres") as database,
            nullcontext() if plan.flue is None else flue.open_app(plan.flue, database) as app,
            nullcontext() if not plan.relay else open_upstream(random.Random(plan.seed)) as upstream,
            nullcontext() if not plan.owned else open_houses(database, Path(folder), plan.machines) as houses,
            open_fleet(
                database,
                Path(folder),
                plan.machines,
                plan.program,
                _settings(plan, database, upstream, Path(folder)),
                () if houses is None else houses.all,
                clocked=not plan.rolling and plan.asks_for(schedule.CLOCK),
                executed=plan.soak,
            ) as fleet,
        ):
            over = asyncio.Event()
            calm = Calm()
            cast = fleet.doors, app, random.Random(plan.seed), fleet.findings, over.set, plan.readers
            stage = (
                LaggingStage(*cast, calm=calm)
                if plan.lagging
                else Stage(
                    *cast,
                    database=database,
                    patience=plan.patience,
                    retention=plan.retention,
                    upstream=upstream,
                    only=plan.chores,
                    houses=houses,
                    kinds=_chores(plan),
                )
            )
            nemesis = Nemesis(fleet, app, stage.paths, tell, calm, over.set)
            samples = Samples()
            playing = asyncio.create_task(stage.play(plan.scenes))
            playing.add_done_callback(lambda _: over.set())
            attack = asyncio.create_task(_attack(plan, nemesis, fleet.left_out))
            watching = asyncio.create_task(samples.watch(fleet.sites[-1].machine.pid)) if plan.soak else None
            try:
                await _until(attack, over)
                stage.stop()
                await _until(playing, over)
                if attack.done():  # else a Machine may be ended just now
                    fleet.miss()
                if houses is not None and not fleet.findings.counts:
                    fleet.findings.include(await houses.judge())  # once more, as all Machines are there again
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
                {} if plan.rolling else {kind: why for kind, why in fleet.left_out.items() if plan.asks_for(kind)},
                stage.runs,
                stage.read,
                stage.seen,
                stage.rounds(),
                fleet.findings,
                fleet.exits,
                growth,
                nemesis.takeovers,
                nemesis.probes,
            )


def _chores(plan: Plan) -> Sequence[type[Chore]]:
    if not plan.replica:
        return CHORES
    return *(LateLists if kind is Lists else kind for kind in CHORES), Fresh


def _settings(plan: Plan, database: Database, upstream: Upstream | None, folder: Path) -> Mapping[str, str]:
    more = {} if upstream is None else dict(relayed.settings(upstream, folder))
    if isinstance(database, Cluster) and database.near is not None:
        more["READ_DATABASE_URL"] = database.through(database.near.port)
    return {"GATEWAY_RETENTION": str(plan.retention), **(flue.SETTINGS if plan.flue else {}), **more}


def _open_database(plan: Plan, folder: Path) -> AbstractAsyncContextManager[Database]:
    if plan.failovers or plan.lagging or plan.replica:
        return open_cluster(synchronous=not plan.lagging, replica=plan.replica)
    return open_database(plan.database_url, folder)


async def _attack(plan: Plan, nemesis: Nemesis, left_out: Container[str]) -> None:
    if not plan.rolling:
        kinds = [kind for kind in schedule.KINDS if kind not in left_out]
        if plan.owned:
            kinds = [kind for kind in kinds if kind not in schedule.NOT_OF_OWNED]
        kinds += schedule.OF_FLUE if plan.flue else ()
        kinds += schedule.OF_OWNED if plan.owned else ()
        kinds += schedule.OF_CLUSTER if plan.failovers else ()
        kinds += schedule.OF_LAGGING if plan.lagging else ()
        kinds += schedule.OF_REPLICA if plan.replica else ()
        kinds = [kind for kind in kinds if plan.asks_for(kind)]
        spared = plan.machines - 1 if plan.soak else None
        await nemesis.play(schedule.draw(plan.seed, plan.seconds, kinds, plan.machines, spared, plan.pause))
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
