"""The runs that are written and read while everything fails: several at once, each judged when it has ended."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import httpx

from loadtests.survival.clients import MODES, Reader, Seen, Writer
from loadtests.survival.fates import Cancelled, Dying
from loadtests.survival.ledger import STUCK, WRONG, Findings, judge

LASTS = (2.0, 5.0)  # seconds that a run is written, from and to
PATIENCE = 60.0  # seconds that a run may take beyond that, whatever happens meanwhile


@dataclass
class Stage:
    """`scenes` runs at a time, each with one writer and `readers` readers, until it is told to stop.

    `on_broken` is called when a run has been found to be wrong.
    """

    doors: Sequence[str]
    rng: random.Random
    findings: Findings
    on_broken: Callable[[], None]
    readers: int
    seen: Seen = field(default_factory=Seen)
    writing: list[str] = field(default_factory=list)  # the paths of runs that have not ended
    runs: int = 0
    read: int = 0
    _stopped: bool = False
    _fates: Iterator[type[Writer]] = field(default_factory=lambda: cycle((Writer, Dying, Cancelled)))

    def paths(self) -> list[str]:
        """Of the streams that are being written, as the log names them."""
        return [path.removeprefix("/") for path in self.writing]

    def stop(self) -> None:
        """No new runs; those that have begun go on to their end."""
        self._stopped = True

    async def play(self, scenes: int) -> None:
        """Returns when all runs have ended and were judged."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(limits=limits, trust_env=False) as http, asyncio.TaskGroup() as tasks:
            for number in range(scenes):
                tasks.create_task(self._scenes(http, retried=number % 3 != 1))

    async def _scenes(self, http: httpx.AsyncClient, retried: bool) -> None:
        while not self._stopped:
            path = f"/runs/survival-{secrets.token_hex(6)}"
            self.writing.append(path)
            try:
                findings = await self._scene(http, path, retried)
            finally:
                self.writing.remove(path)
            self.runs += 1
            self.findings.include(findings)
            if findings.counts:
                self.on_broken()

    async def _scene(self, http: httpx.AsyncClient, path: str, retried: bool) -> Findings:
        """One run from its creation to its verdict."""
        seconds = self.rng.uniform(*LASTS)
        fate = next(self._fates) if retried else Writer
        writer = fate(http, self.doors, path, self._chance(), self.seen, retried)
        readers = [self._reader(http, writer, MODES[number % len(MODES)]) for number in range(self.readers)]
        log = self._reader(http, writer, "catch-up")
        findings = Findings()
        try:
            async with asyncio.timeout(seconds + PATIENCE), asyncio.TaskGroup() as tasks:
                await writer.create()
                for reader in readers:
                    tasks.create_task(self._later(reader, seconds))
                await writer.write(seconds)
        except TimeoutError:
            findings.add(STUCK, f"{path}: not written and read within {seconds + PATIENCE:.0f} s")
        try:
            async with asyncio.timeout(PATIENCE):
                await log.run()
                await writer.haunt()
        except TimeoutError:
            findings.add(STUCK, f"{path}: the log could not be read within {PATIENCE:g} s")
        self.read += len(readers)
        unanswered = set(range(writer.account.sent)).difference(*writer.account.hands)
        self.seen.unanswered += len(unanswered)
        self.seen.landed += len(unanswered.intersection(log.account.given))
        findings.include(judge(log.account, writer.account, [reader.account for reader in readers]))
        wrong, self.seen.wrong = self.seen.wrong, []
        for note in wrong:
            findings.add(WRONG, note)
        return findings

    async def _later(self, reader: Reader, seconds: float) -> None:
        """Some are there from the beginning, some come in the middle, some when all is over."""
        await asyncio.sleep(self.rng.choice((0, 0, 0, 0.5, 1.2)) * seconds)
        await reader.run()

    def _reader(self, http: httpx.AsyncClient, writer: Writer, mode: str) -> Reader:
        return Reader(http, self.doors, writer, self._chance(), self.seen, mode)

    def _chance(self) -> random.Random:
        return random.Random(self.rng.random())
