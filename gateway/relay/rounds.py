"""When recordings append: in rounds, so that what all recordings of a Machine have at one time is one transaction.

A transaction takes as much by itself as the frames of twenty recordings do. So the next round begins when the one
before is durable, or PATIENCE after it began; and where there is too little processor for what this process does,
rounds are held apart, up to LONGEST. Then a recording has several frames in each, and every frame costs less, here and
in the database.
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
FEW: Final = 4  # recordings in a round, with fewer than which nobody looks for more without a reason
LONGEST: Final = 0.05  # seconds from one round to the next, at most
_SHORTEST: Final = 0.002  # to begin with
_STEP: Final = 1.25
_LOOK: Final = 0.1  # seconds between looks at how busy this process is
_BUSY: Final = 0.6  # of the time, in which it runs or waits for a processor
_EASY: Final = 0.45
_LITTLE: Final = 0.15  # of the time: who runs for less has nothing to save

Use = tuple[float, float]
"""Seconds for which a process has run, and for which it has waited for a processor."""


def use() -> Use:
    """Of this process (its main thread, where the loop is). Where the system does not tell, nothing was waited for."""
    try:
        with open("/proc/self/schedstat") as told:
            ran, waited, _ = told.read().split()
    except (OSError, ValueError):
        return time.process_time(), 0.0
    return int(ran) / 1e9, int(waited) / 1e9


Append = tuple[AppendRequest, Settle]


class Rounds:
    """Appends what those have who have joined, by one call of `submit`. `use`: of processors, by this process.

    `count`: of the rounds so far, which is the number of the latest one. `spacing`: seconds from the beginning of one
    to that of the next, at least.
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
        self._looked = 0.0
        self._used = (0.0, 0.0)  # at that time

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def join(self, gathered: Callable[[], Append | None]) -> None:
        """Has appended what `gathered` gives when the next round begins."""
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
            self._next = self._loop.call_soon(self._begin)  # with whoever joins in this turn of the loop

    def _begin(self) -> None:
        self.reading.read()  # those for whom something has come join
        joined, self._joined = self._joined, []
        self._next = None
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
                logger.exception("A recording cannot be appended to; its lease ends it.")  # the others go on
            else:
                if append is not None:
                    appends.append(append)
        self._submit(appends)
        if len(joined) < FEW:
            self.reading.watch()
        elif self._next is None:
            self._plan()  # there will be something then

    def _look(self, now: float) -> None:
        used, before, passed = self._use(), self._used, now - self._looked
        ran, waited = (used[0] - before[0]) / passed, (used[1] - before[1]) / passed
        if ran > _LITTLE and ran + waited > _BUSY:
            self.spacing = min(LONGEST, max(_SHORTEST, self.spacing * _STEP))
        elif ran < _LITTLE or ran + waited < _EASY:
            self.spacing = self.spacing / _STEP if self.spacing > _SHORTEST else 0.0
        self._looked, self._used = now, used
