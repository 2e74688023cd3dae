"""What the numbers were taken on: the processor, the kernel, the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loadtests.bench.peers import PEERS
from loadtests.bench.postgres import Postgres


def describe(postgres: Postgres, peers: Iterable[str]) -> dict[str, Any]:
    """The machine and the versions of what takes part."""
    versions = {name: PEERS[name].version() for name in peers if PEERS[name].missing() is None}
    return {
        "machine": {
            "processor": _field(Path("/proc/cpuinfo"), "model name"),
            "cores": os.cpu_count(),
            "memory": _field(Path("/proc/meminfo"), "MemTotal"),
            "system": platform.platform(),
        },
        "versions": {"python": platform.python_version(), "postgres": postgres.version, **versions},
    }


def _field(path: Path, name: str) -> str:
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")
