"""Numbers about numbers: histograms as the C clients print them, and medians with ranges. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Pairs = Sequence[Sequence[int]]


class NothingMeasured(Exception):
    """There are no values to take a quantile or a median of."""


@dataclass(frozen=True)
class Histogram:
    """How often each value was seen; values in ascending order."""

    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, pairs: Pairs) -> Histogram:
        """`[[value, count], …]`, in any order."""
        return cls(tuple(sorted((value, count) for value, count in pairs if count)))

    @property
    def count(self) -> int:
        return sum(count for _, count in self.pairs)

    def quantile(self, q: float) -> float:
        """The least value that the share `q` of all values does not exceed. Raises NothingMeasured."""
        if not self.pairs:
            raise NothingMeasured("a histogram is empty")
        rank, seen = q * self.count, 0
        for value, count in self.pairs:
            seen += count
            if seen >= rank:
                return float(value)
        return float(self.pairs[-1][0])

    def milliseconds(self, q: float) -> float:
        """A quantile of microseconds, in milliseconds."""
        return self.quantile(q) / 1000


@dataclass(frozen=True)
class Summary:
    """The rounds of one number."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Summary:
        """Raises NothingMeasured when there was no round."""
        taken = list(values)
        if not taken:
            raise NothingMeasured("no round gave a value")
        return cls(statistics.median(taken), min(taken), max(taken), len(taken))


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Ours to theirs, round by round: what drifts between rounds drifts for both."""
    return [ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys()) if theirs[number]]
