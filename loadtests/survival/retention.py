"""Streams that are closed are kept for their time, whatever fails meanwhile, and then they go; open ones stay."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from loadtests.survival.chores import Chore
from loadtests.survival.ledger import LOST, STUCK


@dataclass(frozen=True)
class Closed:
    """After `since`, by the monotonic clock; and by the time that `served` tells."""

    path: str
    since: float
    served: float


class Retention(Chore):
    """Each round closes a stream of its own and looks for those of the rounds before. `keep`: the Machines' setting."""

    name = "retention"

    def __init__(self, keep: float, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._keep = keep
        self._closed: list[Closed] = []
        self._open_path: str | None = None

    async def _round(self, name: str) -> bool:
        path = f"/v1/stream/{name}"
        await self._ask("PUT", path)
        if self._open_path is None:
            self._open_path = path
            return False
        since = time.monotonic()
        await self._ask(
            "POST", path, {"n": 0}, headers={"stream-closed": "true"}, also=(409,)
        )  # closed by the first try
        self._closed.append(Closed(path, since, self._pulse.served))
        self._closed = [closed for closed in self._closed if await self._is_there(closed)]
        if (await self._ask("HEAD", self._open_path, also=(404,))).status_code == 404:
            self._findings.add(LOST, f"{self._open_path}: is open, and gone")
        return True

    async def _is_there(self, closed: Closed) -> bool:
        served = self._pulse.served - closed.served
        response = await self._ask("GET", f"{closed.path}?offset=-1", also=(404,))
        gone = response.status_code == 404
        age = time.monotonic() - closed.since
        if gone and age < self._keep:
            self._findings.add(LOST, f"{closed.path}: gone {age:.1f} s after it was closed, and not {self._keep:g} s")
        if not gone and response.json() != [{"n": 0}]:
            self._findings.add(LOST, f"{closed.path}: a reader is given {response.text[:100]}")
        if not gone and served > self._keep + self._patience:
            self._findings.add(STUCK, f"{closed.path}: closed {age:.0f} s ago and still there")
        return not gone
