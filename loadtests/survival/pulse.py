"""Whether anybody could have done anything: somebody appends all the time, and seconds in which that works are counted.

Faults that come close together leave no Machine, or no database, for a while. Whoever has not come to an end then is
not stuck.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

_PAUSE = 0.25  # seconds between two appends
_PATIENCE = 1.0  # seconds for each
_LONGEST = 5  # times the seconds that are allowed: for so long it is waited at most
_TYPE = {"content-type": "application/json"}


class Pulse:
    """`served`: the seconds in which appends were acknowledged, so far."""

    def __init__(self, http: httpx.AsyncClient, doors: Sequence[str]) -> None:
        self.served = 0.0
        self._http = http
        self._doors = list(doors)
        self._path = f"/v1/stream/pulse-{secrets.token_hex(6)}"

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()

    @asynccontextmanager
    async def patience(self, seconds: float) -> AsyncIterator[None]:
        """Raises TimeoutError when the block takes longer than so many seconds in which it could have gone on."""
        until, at_most = self.served + seconds, time.monotonic() + _LONGEST * seconds
        async with asyncio.timeout(None) as limit:
            watch = asyncio.create_task(self._watch(limit, until, at_most))
            try:
                yield
            finally:
                watch.cancel()

    async def _watch(self, limit: asyncio.Timeout, until: float, at_most: float) -> None:
        while self.served < until and time.monotonic() < at_most:  # noqa: ASYNC110  time passes, and nobody tells
            await asyncio.sleep(_PAUSE)
        limit.reschedule(0)

    async def _beat(self) -> None:
        last = time.monotonic()
        while True:
            answered = await self._append()
            now = time.monotonic()
            if answered:
                self.served += now - last
            else:
                self._doors.append(self._doors.pop(0))
            last = now
            await asyncio.sleep(_PAUSE)

    async def _append(self) -> bool:
        url = self._doors[0] + self._path
        try:
            answer = await self._http.post(url, headers=_TYPE, content=b"1", timeout=_PATIENCE)
            if answer.status_code == 404:
                await self._http.put(url, headers=_TYPE, timeout=_PATIENCE)
        except httpx.RequestError:
            return False
        return answer.is_success
