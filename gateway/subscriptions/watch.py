"""The appends of this Machine that may concern a subscription. While there is one, every commit asks, so the answer
must cost next to nothing.

It knows what was subscribed to when it was last told, and may be some moments behind. What it misses for that reason,
the dispatcher's regular rounds find.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.protocol.target import tenant_of, without
from gateway.subscriptions.glob import split
from gateway.subscriptions.records import Interest

_MOST_REMEMBERED: Final = 50_000  # paths whose answers are kept
_MOST_GATHERED: Final = 5_000  # paths kept until the next look
MOST_STEPS: Final = 10_000  # of comparing paths with patterns, until the next look; after that any path may concern one


class Watch:
    """Gathers the paths of appends that a subscription may want."""

    def __init__(self) -> None:
        self.interest: Interest | None = None
        self.begins: Callable[[], None] = lambda: None  # is called when the first subscription is there
        self.ends: Callable[[], None] = lambda: None  # is called when the last one is gone
        self._idle = True  # there are no subscriptions
        self.overflowed = False  # more paths were gathered than are kept, so that everything has to be looked at
        self._answers: dict[str, bool] = {}
        self._gathered: set[str] = set()
        self._steps = MOST_STEPS

    def learn(self, interest: Interest) -> None:
        """Replaces the paths and patterns that are subscribed to."""
        if interest is not self.interest:
            self.interest = interest
            self._answers.clear()
            was, self._idle = self._idle, not interest.subscriptions
            if was and not self._idle:
                self.begins()
            elif self._idle and not was:
                self.ends()

    def notice(self, path: str) -> bool:
        """Takes note of an append. Returns whether it may concern a subscription."""
        if self.interest is None or self._idle:
            return False
        answer = self._answers.get(path)
        if answer is None:
            answer = self._concerns(self.interest, path)
        if answer:
            if len(self._gathered) < _MOST_GATHERED:
                self._gathered.add(path)
            else:
                self.overflowed = True
        return answer

    def take(self) -> list[str]:
        """Takes what was gathered since the last call."""
        self._steps = MOST_STEPS
        gathered, self._gathered = self._gathered, set()
        return list(gathered)

    def _concerns(self, interest: Interest, path: str) -> bool:
        """Whether a path is one of those that are subscribed to. What would take too many steps may be one: the
        database tells.
        """
        tenant = tenant_of(path)
        answer = path in interest.explicit or tenant in interest.crowded
        globs = interest.globs.get(tenant, ())
        if not answer and globs:
            parts = split(without(path)) if self._steps >= 0 else []
            for glob in globs:
                if self._steps >= 0:
                    answer, steps = glob.search(parts, self._steps)
                    self._steps -= steps
                if self._steps < 0:
                    return True  # that is no answer to be remembered
                if answer:
                    break
        if len(self._answers) >= _MOST_REMEMBERED:
            self._answers.clear()
        self._answers[path] = answer
        return answer
