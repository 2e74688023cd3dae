"""The rules of ownership, purely: until when a Machine believes in its life, when it may end another one's, and who has
a key. `gateway/log/sql/functions/owner.sql` says the last in SQL; the tests have both judge the same stories.

Times are seconds of one Machine's own steady clock. None is ever compared with another Machine's.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Final

MARGIN: Final = 0.05
"""Part of a lease by which the belief ends earlier: clocks may run differently by so much."""
LOOKS: Final = 4
"""Beats, and looks at the others' beats, in a lease."""


def believed(sent: float, lease: float) -> float:
    """Until when a Machine believes in its life, if the beat that it has sent at this time was answered."""
    return sent + lease * (1 - MARGIN)


@dataclass(slots=True)
class _Sight:
    beats: int
    lease: float
    silent: float = 0.0  # seconds for which it was seen to be that number


@dataclass(slots=True)
class Watch:
    """A Machine's view of the others' beats. Silence is counted from the answer of one look to the asking of the next:
    a beat that is seen was sent before the answer, and one that is still the last was so when it was asked.

    Of a long time between two looks only a part counts: this Machine was stopped or without a database then, as others
    may have been, and they are to have their chance.
    """

    lease: float
    _answered: float | None = None
    _seen: dict[int, _Sight] = field(default_factory=dict)

    def look(self, asked: float, answered: float, beats: Mapping[int, tuple[int, float]]) -> None:
        """Takes in a look at the lives: their numbers of beats, and how long each may believe in itself after one."""
        passed = 0.0 if self._answered is None else min(max(0.0, asked - self._answered), self.lease / 2)
        self._answered = answered
        seen: dict[int, _Sight] = {}
        for life, (number, lease) in beats.items():
            before = self._seen.get(life)
            same = before is not None and before.beats == number
            seen[life] = _Sight(number, lease, before.silent + passed if before is not None and same else 0.0)
        self._seen = seen

    def suspect(self, life: int) -> bool:
        """Whether a life was seen to be silent for half of what would end it."""
        sight = self._seen.get(life)
        return sight is not None and sight.silent > max(self.lease, sight.lease) / 2

    def dead(self) -> dict[int, int]:
        """Lives that may be ended, each if its beats are still this number."""
        return {life: sight.beats for life, sight in self._seen.items() if sight.silent >= max(self.lease, sight.lease)}


@dataclass(frozen=True, slots=True)
class Owned:
    """The owner of a key."""

    life: int
    epoch: int


def own(owned: Owned | None, taker: int, alive: Container[int], draining: Container[int], epoch: int) -> Owned | None:
    """The owner of a key after a life has asked for it; None: nobody.

    `owned`: the owner before. `alive`: lives that have not ended. `epoch`: a number that none has had yet.
    """
    if owned is not None and owned.life in alive:
        return owned
    if taker not in alive or taker in draining:
        return None
    return Owned(taker, epoch)
