"""Conversations of a real Flue 2.1.0 app, with what it answered for them: each batch, each chunk a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "recordings"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def written(value: object) -> bytes:
    """As Flue writes JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True)
class Recording:
    """`batches`: as they stand in their rows. `updates`: the answer from the start. `history`: the one at the end."""

    incarnation: str
    batches: list[str]
    updates: list[dict[str, Any]]
    history: bytes

    def after(self, position: int) -> list[dict[str, Any]]:
        """The answer from a position: so many batches are left out."""
        first, *rest = self.updates
        return [first, *(chunk for chunk in rest if chunk["position"]["batch"] >= position)]


@cache
def recording(name: str) -> Recording:
    told = json.loads((FOLDER / f"{name}.json").read_text())
    batches = [written(batch).decode() for batch in told["batches"]]
    return Recording(told["incarnation"], batches, told["updates"], written(told["history"]))
