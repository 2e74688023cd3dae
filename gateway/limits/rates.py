"""So many a second for each holder: a token bucket each, as large as a second's worth.

Own code, for it stands on the append's path: `limits` takes five times as long for the same, 10 µs (its storage keeps
windows by name, for many processes). Time is an argument.
"""

from __future__ import annotations

from typing import Final

MOST: Final = 10_000  # holders that are remembered; who is forgotten has a full bucket again


class Rate:
    """At most `limit` a second, and as many at once; counts begin anew with each process."""

    __slots__ = ("_buckets", "limit")

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._buckets: dict[str, tuple[float, float]] = {}  # what is left, and as of when

    def take(self, holder: str, now: float) -> bool:
        """Whether there is one more for this holder at `now` (seconds, of a clock that never goes back)."""
        most = max(self.limit, 1.0)
        left, since = self._buckets.get(holder, (most, now))
        left = min(most, left + (now - since) * self.limit)
        allowed = left >= 1.0
        self._buckets[holder] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > MOST:
            self._forget(now, most)
        return allowed

    def _forget(self, now: float, most: float) -> None:
        # Full again: remembering says nothing. If all are busy, the older half begins anew.
        busy = {
            holder: (left, since)
            for holder, (left, since) in self._buckets.items()
            if left + (now - since) * self.limit < most
        }
        self._buckets = busy if len(busy) <= MOST // 2 else dict(list(busy.items())[-MOST // 2 :])
