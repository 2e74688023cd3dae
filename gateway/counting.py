"""What rooms count with where it is hot: plain numbers, read by `gateway.metrics` when somebody asks.

Knows nothing of Prometheus, of names or of labels. A count is an int attribute; here is what an int cannot say.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0)


class Histogram:
    """How often values were at most each of the rising `bounds`; `counts` has one more, for those above all of them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """For once a commit or a batch, not once a delivery: it takes a fifth of a microsecond."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


def together(histograms: Sequence[Histogram]) -> Histogram:
    """What several with the same bounds have counted."""
    one = Histogram(histograms[0].bounds)
    one.counts = [sum(counts) for counts in zip(*(each.counts for each in histograms), strict=True)]
    one.total = sum(each.total for each in histograms)
    return one


class Inside:
    """How many are in the middle of something: `with inside:`. One object for all of them, nothing for each."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1
