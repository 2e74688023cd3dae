"""Whether a Machine that lives long stays as it was: its memory and descriptors, after warming up and at the end."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.bench.processes import memory

EVERY = 2.0  # seconds between two looks
WARM = 0.25  # of the samples are left out; the next quarter is compared with the last
MORE_MEMORY = 1.10  # times as much, and
MORE_BYTES = 8 << 20  # so many bytes besides, are within what a heap does by itself
MORE_DESCRIPTORS = 16  # connections that happen to be open


@dataclass
class Samples:
    """What one process has used, look by look."""

    memory: list[int] = field(default_factory=list)  # bytes
    descriptors: list[int] = field(default_factory=list)

    async def watch(self, pid: int) -> None:
        """Until it is cancelled, or the process has gone."""
        while (Path("/proc") / str(pid)).exists():
            self.memory.append(memory([pid]))
            self.descriptors.append(len(list((Path("/proc") / str(pid) / "fd").iterdir())))
            await asyncio.sleep(EVERY)


@dataclass(frozen=True)
class Growth:
    """Medians of a quarter of the samples each: after the first, and the last."""

    memory: tuple[float, float]
    descriptors: tuple[float, float]

    @classmethod
    def of(cls, samples: Samples) -> Growth:
        return cls(_ends(samples.memory), _ends(samples.descriptors))

    @property
    def flat(self) -> bool:
        """Whether both are within the tolerance."""
        (bytes, more_bytes), (open, more_open) = self.memory, self.descriptors
        return more_bytes <= bytes * MORE_MEMORY + MORE_BYTES and more_open <= open + MORE_DESCRIPTORS

    def __str__(self) -> str:
        before, after = (value / (1 << 20) for value in self.memory)
        return f"{before:.1f} → {after:.1f} MB, {self.descriptors[0]:g} → {self.descriptors[1]:g} descriptors"


def _ends(samples: list[int]) -> tuple[float, float]:
    quarter = max(1, int(len(samples) * WARM))
    return statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
