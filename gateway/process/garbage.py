"""The collector's looks for rings of references: short ones, and each object is looked at twice in its life.

Whatever a request made is freed with it (tests/hardening/test_rings.py), so a look finds next to nothing, and holds the
loop. Python by itself looks at everything that lives again and again, at first after so many new objects that 2,600
connections in one second held the loop for 160 ms. Here a look goes over what is new; what it finds alive twice is
frozen: it is still freed as soon as nobody refers to it, but no look sees it any more. A ring that was frozen is found
by a look at everything, which waits until the loop has time.
"""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 2_000
"""Objects, made and not freed, after which the new ones are looked at: up to four times as many, which takes 6 ms where
others keep the processor busy. With 5,000 it was 14, and no less in sum.
"""
TWICE: Final = 1  # such looks, beyond which those are looked at again that were new then
ENOUGH: Final = 500  # times that objects were frozen, from which on a look at everything is worth its time
TOO_MANY: Final = 25_000  # times, after which it does not wait for a calm moment
EVERY: Final = 3_600.0  # seconds between two looks at everything, at least
LATE: Final = 0.005  # seconds that a tick may be late in a calm loop
CALM: Final = 20  # ticks in a row that were not
_NEVER: Final = 1_000_000_000


class Garbage:
    """The collector of this process, from `begin` to `end`. The loop calls `tick` every `period` seconds."""

    def __init__(self, period: float = 0.1) -> None:
        self.frozen = 0  # times that objects were frozen, since everything was looked at
        self._period = period
        self._before = gc.get_threshold()
        self._looked = 0.0
        self._ticked = 0.0
        self._calm = 0  # ticks in a row that came in time

    def begin(self, now: float) -> None:
        """Begins: all objects that exist by now stay for ever. `now`: seconds of a clock that never goes back."""
        gc.callbacks.append(self._freeze)
        gc.set_threshold(YOUNG, TWICE, _NEVER)
        self._look(now)

    def end(self) -> None:
        """The collector is as it was before."""
        gc.callbacks.remove(self._freeze)
        gc.set_threshold(*self._before)
        gc.unfreeze()

    def tick(self, now: float) -> None:
        """Looks at everything, where it is time to. `now`: by the clock of `begin`."""
        late, self._ticked = now - self._ticked - self._period, now
        self._calm = self._calm + 1 if late < LATE else 0
        if self.frozen < ENOUGH or now < self._looked + EVERY or (self._calm < CALM and self.frozen < TOO_MANY):
            return
        self._look(now)

    def _look(self, now: float) -> None:
        self._looked, self.frozen = now, 0
        gc.unfreeze()
        gc.collect()
        gc.freeze()

    def _freeze(self, phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 1:
            gc.freeze()
            self.frozen += 1
