"""CPU between two moments, of a peer's processes and of Postgres apart."""

from __future__ import annotations

import time
from dataclasses import dataclass

from loadtests.bench.lab import Lab
from loadtests.bench.processes import Cpu, cpu


@dataclass(frozen=True)
class Used:
    """Seconds of CPU, in so many seconds."""

    server: Cpu
    postgres: Cpu
    seconds: float

    def per(self, count: int) -> dict[str, float]:
        """Microseconds for each of so many: `us`, of it `us_user`, and `postgres_us` apart."""
        scale = 1e6 / max(count, 1)
        return {
            "us": self.server.total * scale,
            "us_user": self.server.user * scale,
            "postgres_us": self.postgres.total * scale,
        }


class Meter:
    """Begins to count when it is made."""

    def __init__(self, lab: Lab, pids: list[int]) -> None:
        self._lab = lab
        self._pids = pids
        self._server = cpu(pids)
        self._postgres = lab.postgres.cpu()
        self._began = time.monotonic()

    def read(self) -> Used:
        seconds = time.monotonic() - self._began
        return Used(cpu(self._pids) - self._server, self._lab.postgres.cpu() - self._postgres, seconds)
