"""Rates: a token bucket for each holder, with room for the tokens of one second. Time is an argument.

It is written here because every append may need it: the library `limits`, whose storage is made for many processes,
takes 10 µs for it, five times as long.
"""

from __future__ import annotations

from typing import Final

MOST: Final = 10_000  # holders that are remembered; one that is forgotten has a full bucket again


class Rate:
    """A limit of `limit` a second for each holder, and as many in one burst. Each process counts for itself."""

    __slots__ = ("_buckets", "limit")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens that are left, and as of when

    def take(self, holder: str, now: float) -> bool:
        """Takes a token, if this holder has one left at `now` (monotonic seconds). Returns whether it had."""
        most = max(self.limit, 1.0)
        left, since = self._buckets.get(holder, (most, now))
        left = min(most, left + (now - since) * self.limit)
        allowed = left >= 1.0
        self._buckets[holder] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > MOST:
            self._forget(now, most)
        return allowed

    def _forget(self, now: float, most: float) -> None:
        # A full bucket need not be remembered. If none is full, the older half of the holders begins anew.
        busy = {
            holder: (left, since)
            for holder, (left, since) in self._buckets.items()
            if left + (now - since) * self.limit < most
        }
        self._buckets = busy if len(busy) <= MOST // 2 else dict(list(busy.items())[-MOST // 2 :])
