"""Rounds of appends: what all recordings of a Machine have at one time is one transaction.

The next round begins when the one before is durable, or PATIENCE after it began. Where there is too little processor
for that, one begins every LONGEST. Then a recording has several frames in each, and every frame costs a third, here and
in the database: so this ends only when three times as much would not be too much again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final

from gateway.log.appends import Settle
from gateway.protocol.append import AppendRequest
from gateway.relay.reading import Reading

logger = logging.getLogger("gateway.relay")

PATIENCE: Final = 0.002  # seconds for which a round waits for the one before
LONGEST: Final = 0.05  # seconds from one round to the next, where processors are scarce
TURNS: Final = 8  # of the loop, in which what comes for a round may be read
_LOOK: Final = 0.1  # seconds between looks at how busy this process is
_BUSY: Final = 0.7  # of the time, in which it runs or waits for a processor
_EASY: Final = 0.2
_SURE: Final = (4, 10)  # looks in a row after which rounds are held apart, and are not
_LITTLE: Final = 0.15  # of the time: a process that runs for less has nothing to save

Use = tuple[float, float]
"""Seconds for which a process has run, and for which it has waited for a processor."""


def use() -> Use:
    """The use of processors by the loop's thread. Where the system does not tell how long it has waited, it is 0."""
    try:
        with open("/proc/self/schedstat") as told:
            ran, waited, _ = told.read().split()
    except (OSError, ValueError):
        return time.process_time(), 0.0
    return int(ran) / 1e9, int(waited) / 1e9


Append = tuple[AppendRequest, Settle]


class Rounds:
    """The rounds of a Machine, each of them one call of `submit`. `use`: of processors, by this process.

    `count`: the number of the latest round. `spacing`: seconds from the beginning of one to that of the next, at least.
    """

    def __init__(self, submit: Callable[[Sequence[Append]], None], use: Callable[[], Use] = use) -> None:
        self.count = 0
        self.spacing = 0.0
        self.reading = Reading()
        self.reading.ring = self._ring
        self._submit = submit
        self._use = use
        self._joined: list[Callable[[], Append | None]] = []
        self._next: asyncio.Handle | None = None
        self._began = 0.0  # the latest round, by the loop's clock
        self._landed = True
        self._turns = 0  # of the loop, in which what has come for the next round is being read
        self._seen = 0  # looks in a row that say that it should be otherwise
        self._looked = 0.0
        self._used = (0.0, 0.0)  # at that time

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def join(self, gathered: Callable[[], Append | None]) -> None:
        """Joins the next round, which appends what `gathered` gives when it begins."""
        self._joined.append(gathered)
        if self._next is None:
            self._plan()

    def landed(self, round: int) -> None:
        """Something of a round is durable, or has failed."""
        if round == self.count and not self._landed:
            self._landed = True
            if self._next is not None:
                self._next.cancel()
                self._plan()

    def _ring(self) -> None:
        """Something has come for a recording."""
        if self._next is None:
            self._plan()

    def _plan(self) -> None:
        at = self._began + (self.spacing if self._landed else max(self.spacing, PATIENCE))
        if at > self._loop.time():
            self._next = self._loop.call_at(at, self._begin)
        else:
            self._next = self._loop.call_soon(self._begin)  # with all that join in this turn of the loop

    def _begin(self) -> None:
        whole = True
        try:
            whole = self.reading.read()  # those for whom something has come join
        finally:
            self._next = None
        self._turns = 0 if whole else self._turns + 1
        if 0 < self._turns < TURNS:
            self._next = self._loop.call_soon(self._begin)  # and those for whom it is read in the next turn
            return
        self._turns = 0
        joined, self._joined = self._joined, []
        if not joined:
            self.reading.watch()
            return
        self._began = now = self._loop.time()
        self._landed = False
        self.count += 1
        if now - self._looked >= _LOOK:
            self._look(now)
        appends: list[Append] = []
        for gathered in joined:
            try:
                append = gathered()
            except Exception:
                # The others go on.
                logger.exception("A recording cannot be appended to; it ends after GATEWAY_RELAY_SILENCE.")
            else:
                if append is not None:
                    appends.append(append)
        self._submit(appends)
        if self._next is None:
            self._plan()  # to be woken takes more than to look

    def _look(self, now: float) -> None:
        used, before, passed = self._use(), self._used, now - self._looked
        ran, waited = (used[0] - before[0]) / passed, (used[1] - before[1]) / passed
        scarce, easy, busy = self.spacing > 0, ran + waited < _EASY, ran + waited > _BUSY
        turns = ran < _LITTLE or easy if scarce else ran > _LITTLE and busy
        self._seen = self._seen + 1 if turns else 0
        if self._seen >= _SURE[scarce]:
            self._seen = 0
            self.spacing = 0.0 if scarce else LONGEST
        self._looked, self._used = now, used
