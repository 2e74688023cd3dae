"""Counters cheap enough for hot paths: plain numbers in memory, which `gateway.metrics` reads when it is scraped.

Knows nothing of Prometheus, of names or of labels. A simple count is an int attribute of the object that counts; the
rest is here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0)


class Histogram:
    """Values counted by size: `counts[i]` are those above `bounds[i - 1]` and up to `bounds[i]`; the last, the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Counts a value. Takes a fifth of a microsecond: good for each commit or batch, too slow for each delivery."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


def together(histograms: Sequence[Histogram]) -> Histogram:
    """The sum of histograms that have equal bounds."""
    one = Histogram(histograms[0].bounds)
    one.counts = [sum(counts) for counts in zip(*(each.counts for each in histograms), strict=True)]
    one.total = sum(each.total for each in histograms)
    return one


class Inside:
    """A gauge as a context manager: `with gauge:` adds one while the block runs. Reusable, and allocates nothing."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
