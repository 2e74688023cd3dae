"""Who reads what they have just been told: the chore that finds a read which is behind, wherever it was read.

Law: whatever a Machine has acknowledged is in every answer that it begins after that. What another Machine has
acknowledged is there for whoever says so.
"""

from __future__ import annotations

from typing import Final

import httpx

from loadtests.survival.chores import Chore, Lists
from loadtests.survival.clients import PASSING, PATIENCE
from loadtests.survival.ledger import WRONG

ROUNDS: Final = 6  # events of each run
_AWAY: Final = 0  # in the place of a status


class LateLists(Lists):
    """Of what another Machine has made a list near a replica may tell three seconds later."""

    late = 4.0


class Fresh(Chore):
    """A run at one Machine, which is written and read, asked to stop, ended, deleted and made again."""

    name = "fresh"

    async def _round(self, name: str) -> bool:
        here, *others = self._rng.sample(self._doors, len(self._doors))
        run = f"/runs/{name}"
        if await self._told(here, "PUT", run) != 201:
            return False
        events: list[int] = []
        for n in range(ROUNDS):
            answer = await self._at(here, "POST", run, content=b"%d" % n)
            if answer is None or answer.status_code != 204:
                return False
            events.append(n)
            acknowledged = {"stream-next-offset": answer.headers["stream-next-offset"]}
            await self._holds(here, run, events)
            await self._holds(self._rng.choice(others), run, events, acknowledged)
        if await self._told(here, "POST", f"{run}/cancel") != 202:
            return False
        await self._says(here, run, "cancelRequestedAt")
        if await self._told(here, "POST", run, {"stream-closed": "true"}) != 204:
            return False
        await self._says(here, run, "endedAt")
        answer = await self._at(here, "GET", run)
        if answer is not None and answer.status_code == 200 and "stream-closed" not in answer.headers:
            self._wrong(run, "is closed, and read as open")
        if await self._told(here, "DELETE", run) != 204:
            return False
        for path in (run, f"{run}?meta"):
            if await self._told(here, "GET", path) in (200, 204):
                self._wrong(path, "was deleted, and is read")
        if await self._told(here, "PUT", run) != 201:
            return False
        await self._holds(here, run, [])
        return True

    async def _holds(self, door: str, run: str, events: list[int], headers: dict[str, str] | None = None) -> None:
        answer = await self._at(door, "GET", run, headers)
        if answer is None or answer.status_code in PASSING:
            return
        given = answer.json() if answer.status_code == 200 else answer.status_code
        if given != events:
            self._wrong(run, f"holds {events}, and is read as {given}")

    async def _says(self, door: str, run: str, field: str) -> None:
        answer = await self._at(door, "GET", f"{run}?meta")
        if answer is not None and answer.status_code == 200 and field not in answer.json():
            self._wrong(run, f"has {field}, which its record does not say")

    async def _told(self, door: str, method: str, path: str, headers: dict[str, str] | None = None) -> int:
        answer = await self._at(door, method, path, headers)
        return _AWAY if answer is None else answer.status_code

    async def _at(
        self, door: str, method: str, path: str, headers: dict[str, str] | None = None, content: bytes = b""
    ) -> httpx.Response | None:
        sent = {"content-type": "application/json"} if method in ("PUT", "POST") else {}
        try:
            return await self._http.request(
                method, door + path, headers=sent | (headers or {}), content=content, timeout=PATIENCE
            )
        except httpx.RequestError:
            return None

    def _wrong(self, path: str, what: str) -> None:
        self._findings.add(WRONG, f"{path} {what}")
