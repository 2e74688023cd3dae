"""CPU between two moments, of a peer's processes, and apart of what keeps its events: Postgres, or its own store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from loadtests.bench.lab import Lab
from loadtests.bench.processes import Cpu, cpu, machine_busy


@dataclass(frozen=True)
class Used:
    """Seconds of CPU, in so many seconds. `busy`: the share of all cores that anything was running on."""

    server: Cpu
    store: Cpu
    seconds: float
    busy: float

    def per(self, count: int) -> dict[str, float]:
        """Microseconds for each of so many: `us`, of it `us_user`; `store_us` apart, `all_us` both. `cores`, `busy`."""
        scale = 1e6 / max(count, 1)
        return {
            "us": self.server.total * scale,
            "us_user": self.server.user * scale,
            "store_us": self.store.total * scale,
            "all_us": (self.server.total + self.store.total) * scale,
            "cores": self.server.total / self.seconds,
            "busy": self.busy,
        }


class Meter:
    """Begins to count when it is made."""

    def __init__(self, lab: Lab, pids: list[int], store_pids: Iterable[int] = ()) -> None:
        self._lab = lab
        self._pids = pids
        self._store_pids = store_pids
        self._server = cpu(pids)
        self._store = self._store_cpu()
        self._busy = machine_busy()
        self._began = time.monotonic()

    def read(self) -> Used:
        seconds = time.monotonic() - self._began
        busy = machine_busy().share_since(self._busy)
        return Used(cpu(self._pids) - self._server, self._store_cpu() - self._store, seconds, busy)

    def _store_cpu(self) -> Cpu:
        return cpu(self._store_pids) + self._lab.postgres.cpu()
