"""Deadlines of followers: their maximum age, or earlier on a Machine that drains.

Deadlines are kept in slots of one tick, which the hub's one timer empties: thousands of followers need no timer each.
Knows nothing of streams or sockets.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final, Protocol

TICK: Final = 0.25  # seconds: how exactly deadlines are kept
LATE: Final = 2 * TICK  # seconds after its deadline by which a follower has ended, on a Machine that keeps up
DRAIN_RATE: Final = 500  # followers a second that a drain ends, when its time allows
SETTLED: Final = 1.1
"""Seconds that a drain leaves to a follower that has just come.

@durable-streams/client gives up, without an error, when three connections in a row end within one second each.
"""


class Ending(Protocol):
    """The holder of a deadline: a follower. `slot` is what `schedule` returned for it."""

    slot: int

    def end(self) -> None: ...
    def fail(self) -> None: ...


class Deadlines:
    """The deadlines of all followers of a hub. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.draining = False
        self._clock = clock
        self._drained_at = 0.0
        self._slots: dict[int, set[Ending]] = {}
        self._last_tick = int(clock() / TICK)

    def schedule(self, follower: Ending, after: float) -> int:
        """Schedules a follower's end in `after` seconds; returns the slot, which `unschedule` takes."""
        slot = int((self._clock() + after) / TICK) + 1
        self._slots.setdefault(slot, set()).add(follower)
        return slot

    def unschedule(self, follower: Ending, slot: int) -> None:
        """Forgets a deadline. One that has passed already is no error."""
        followers = self._slots.get(slot)
        if followers is not None:
            followers.discard(follower)

    def due(self, now: float) -> Iterator[Ending]:
        """Followers whose deadline has passed at `now`, each of them once."""
        tick = int(now / TICK)
        for slot in range(self._last_tick + 1, tick + 1):
            yield from self._slots.pop(slot, ())
        self._last_tick = tick

    def drain(self, over: float) -> None:
        """Brings all deadlines forward to the next `over` seconds, or less where there are few followers.

        The order is random. All of them come back at another Machine, which takes a few hundred a second with ease.
        """
        self.draining = True
        self._drained_at = self._clock() + over
        followers = [follower for slot in self._slots.values() for follower in slot]
        self._slots.clear()
        first = min(over, SETTLED)
        spread = min(over - first, len(followers) / DRAIN_RATE)
        for follower in followers:
            follower.slot = self.schedule(follower, first + random.uniform(0, spread))

    def time_for(self, wanted: float) -> float:
        """The seconds that a new follower may stay, of those that it asks for: few of them on a Machine that drains."""
        return min(wanted, SETTLED, max(0.0, self._drained_at - self._clock())) if self.draining else wanted

    @property
    def drained(self) -> bool:
        """True when the time for draining is over: no follower may stay here any more."""
        return self.draining and self._clock() >= self._drained_at
