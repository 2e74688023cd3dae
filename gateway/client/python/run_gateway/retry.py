"""Retries: whether to try again, and how long to wait before. Chance is an argument; the waiting is the caller's."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import httpx

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be another at the next attempt."""


@dataclass(slots=True)
class Backoff:
    """Growing waits with jitter, in seconds: each between half and all of `first`, 2x, 4x, up to `most`."""

    first: float = 0.1
    most: float = 5.0
    jitter: Callable[[], float] = random.random
    failures: int = 0

    def reset(self) -> None:
        """Begins anew, since a try has worked."""
        self.failures = 0

    def next(self, floor: float = 0.0) -> float:
        """The wait before the next attempt; never shorter than what the server asked for."""
        longest = min(self.most, self.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return floor + longest * (1 + self.jitter()) / 2


def retry_after(response: httpx.Response) -> float:
    """The seconds that the server asks to wait; 0 when it does not, or asks with a date."""
    value = response.headers.get("retry-after", "")
    return min(float(value), 60.0) if value.isascii() and value.isdigit() else 0.0
