"""The runs that are written and read while everything fails: several at once, each judged when it has ended."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Protocol

import httpx

from loadtests.survival import talks
from loadtests.survival.chores import CHORES, Chore
from loadtests.survival.clients import Seen
from loadtests.survival.fates import Cancelled, Dying
from loadtests.survival.flue import App, FlueRun
from loadtests.survival.houses import Houses
from loadtests.survival.ledger import STUCK, WRONG, Findings, Read
from loadtests.survival.pulse import Pulse
from loadtests.survival.readers import MODES, Reader, Run, beginning
from loadtests.survival.relayed import RelayedReader, RelayedRun
from loadtests.survival.retention import Retention
from loadtests.survival.talks import Talk
from loadtests.survival.upstream import ABLE, PLAIN, Upstream
from loadtests.survival.writers import Writer
from tests.tools.database import Database

LASTS = (2.0, 5.0)  # seconds that a run is written, from and to
PATIENCE = 60.0  # seconds that a run may take beyond that, not counting those in which nobody could append


class Scene(Run, Protocol):
    """One run from its creation to its verdict, written for about so many `seconds`."""

    seconds: float

    async def create(self) -> None:
        """Returns when it can be read."""
        ...

    async def write(self) -> None:
        """Returns when it has ended."""
        ...

    async def log(self) -> Read:
        """All of it, when it has ended."""
        ...

    async def haunt(self) -> None:
        """What its writer has to say after that."""
        ...

    def judge(self, log: Read, readers: Sequence[Read]) -> Findings:
        """Everything that is wrong with it."""
        ...


@dataclass
class Stage:
    """`scenes` runs at a time, each with `readers` readers, and as many of the app's where there is one, until it is
    told to stop.

    `on_broken` is called when a run has been found to be wrong. `headers` go with every request.
    """

    doors: Sequence[str]
    app: App | None
    rng: random.Random
    findings: Findings
    on_broken: Callable[[], None]
    readers: int
    headers: Mapping[str, str] = field(default_factory=dict)
    database: Database | None = None  # None: no chores are done beside
    patience: float = PATIENCE  # seconds in which what a chore waits for has to happen
    retention: float | None = None  # the Machines' setting
    upstream: Upstream | None = None  # behind their relay
    only: Sequence[str] = ()  # names of chores; none: all
    houses: Houses | None = None  # with applications whose conversations are played in place of runs
    kinds: Sequence[type[Chore]] = CHORES  # that are done beside
    seen: Seen = field(default_factory=Seen)
    chores: list[Chore] = field(default_factory=list)
    runs: int = 0
    read: int = 0
    _pulse: Pulse = field(init=False)
    _playing: list[Scene] = field(default_factory=list)
    _stopped: bool = False
    _answers: Iterator[tuple[str, bool]] = field(
        default_factory=lambda: cycle(((ABLE, True), (PLAIN, False), (ABLE, False), (PLAIN, True)))
    )
    _fates: Iterator[type[Writer]] = field(default_factory=lambda: cycle((Writer, Dying, Cancelled)))

    def paths(self) -> list[str]:
        """Of the streams that are being written, as the log names them."""
        return [scene.path.removeprefix("/") for scene in self._playing]

    def rounds(self) -> Counter[str]:
        """Of each chore, as far as they came to a verdict."""
        counts: Counter[str] = Counter()
        for chore in self.chores:
            counts[chore.name] += chore.rounds
        return counts

    def stop(self) -> None:
        """No new runs; those that have begun go on to their end."""
        self._stopped = True

    async def play(self, scenes: int) -> None:
        """Returns when all runs have ended and were judged."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(limits=limits, trust_env=False, headers=self.headers) as http:
            self._pulse = Pulse(http, self.doors)
            async with self._pulse.beating():
                await self._play_all(http, scenes)

    async def _play_all(self, http: httpx.AsyncClient, scenes: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(scenes if self.houses is not None else 0):
                tasks.create_task(self._play(http, self._owned))
            if self.houses is not None:
                return
            if self.database is not None:
                kept = () if self.retention is None else (partial(Retention, self.retention),)
                chores = [
                    kind(http, self.doors, self.database, self._chance(), self.findings, self.patience, self._pulse)
                    for kind in (*self.kinds, *kept)
                ]
                self.chores = [chore for chore in chores if not self.only or chore.name in self.only]
            for chore in self.chores:
                tasks.create_task(self._do(chore))
            for number in range(scenes):
                tasks.create_task(self._play(http, self._begins(number)))
                if self.app is not None:
                    tasks.create_task(self._play(http, self._of_flue))
                if self.upstream is not None:
                    tasks.create_task(self._play(http, self._relayed))

    async def _play(self, http: httpx.AsyncClient, begin: Callable[[httpx.AsyncClient], Scene]) -> None:
        """One such scene after the other."""
        while not self._stopped:
            scene = begin(http)
            self._playing.append(scene)
            try:
                findings = await self._scene(http, scene)
            finally:
                self._playing.remove(scene)
            self.runs += 1
            self.findings.include(findings)
            if findings.counts:
                self.on_broken()

    async def _do(self, chore: Chore) -> None:
        """Until it is told to stop, or something was found."""
        await chore.run(lambda: self._stopped or bool(self.findings.counts))
        if self.findings.counts:
            self.on_broken()

    async def _scene(self, http: httpx.AsyncClient, scene: Scene) -> Findings:
        readers: list[Reader | RelayedReader] = []
        findings = Findings()
        try:
            async with self._pulse.patience(scene.seconds + PATIENCE), asyncio.TaskGroup() as tasks:
                await scene.create()
                for number in range(0 if isinstance(scene, Talk) else self.readers):
                    reader: Reader | RelayedReader
                    if isinstance(scene, RelayedRun):
                        reader = scene.reader(self._chance(), asks=number == 0)
                    else:
                        reader = self._reader(http, scene, MODES[number % len(MODES)])
                    readers.append(reader)
                    asks = isinstance(reader, RelayedReader) and reader.asks
                    tasks.create_task(reader.run() if asks else self._later(reader, scene.seconds))
                await scene.write()
        except TimeoutError:
            findings.add(STUCK, f"{scene.path}: not written and read within {scene.seconds + PATIENCE:.0f} s")
        log = Read("catch-up")
        try:
            async with self._pulse.patience(PATIENCE):
                log = await scene.log()
                await scene.haunt()
        except TimeoutError:
            findings.add(STUCK, f"{scene.path}: the log could not be read within {PATIENCE:g} s")
        self.read += len(readers)
        findings.include(scene.judge(log, [reader.account for reader in readers]))
        wrong, self.seen.wrong = self.seen.wrong, []
        for note in wrong:
            findings.add(WRONG, note)
        return findings

    async def _later(self, reader: Reader | RelayedReader, seconds: float) -> None:
        """Some are there from the beginning, some come in the middle, some when all is over."""
        await asyncio.sleep(self.rng.choice((0, 0, 0, 0.5, 1.2)) * seconds)
        await reader.run()

    def _begins(self, number: int) -> Callable[[httpx.AsyncClient], Scene]:
        """How the scenes of one place on the stage begin."""
        return self._retried if number % 3 != 1 else self._once

    def _reader(self, http: httpx.AsyncClient, scene: Scene, mode: str) -> Reader:
        return Reader(http, self.doors, scene, self._chance(), self.seen, mode, beginning(self.rng))

    def _retried(self, http: httpx.AsyncClient) -> Writer:
        return self._written(http, next(self._fates), retried=True)

    def _once(self, http: httpx.AsyncClient) -> Writer:
        return self._written(http, Writer, retried=False)

    def _written(self, http: httpx.AsyncClient, fate: type[Writer], *, retried: bool) -> Writer:
        path = f"/runs/survival-{secrets.token_hex(6)}"
        return fate(http, self.doors, path, self._chance(), self.seen, self.rng.uniform(*LASTS), retried)

    def _of_flue(self, http: httpx.AsyncClient) -> FlueRun:
        assert self.app is not None, "it is asked for where there is one"
        return FlueRun(http, self.app, self._chance(), self.seen, self.rng.uniform(*LASTS))

    def _relayed(self, http: httpx.AsyncClient) -> RelayedRun:
        assert self.upstream is not None, "it is asked for where there is one"
        seconds, (kind, breaks) = self.rng.uniform(*LASTS), next(self._answers)
        return RelayedRun(http, self.doors, self.upstream, self._chance(), self.seen, seconds, kind, breaks)

    def _owned(self, http: httpx.AsyncClient) -> Talk:
        assert self.houses is not None, "it is asked for where there are some"
        return Talk(http, self.doors, self.houses, self._chance(), self.seen, self.rng.uniform(*talks.LASTS))

    def _chance(self) -> random.Random:
        return random.Random(self.rng.random())
