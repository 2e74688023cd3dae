"""Writers whose runs take another course: one that dies and leaves the end to a lease, one that is asked to stop."""

from __future__ import annotations

import json
from typing import Any

import httpx

from loadtests.survival.writers import Writer

LEASE = 2  # seconds
CANCEL = 0.05  # the chance, with each append, that somebody has had enough


class Dying(Writer):
    """Promises one more sign of life and gives none: the gateway has to end the run. Then it comes back."""

    async def _end(self) -> None:
        self.account.dies = True
        # Where the answer was lost, the promise may have been broken by the time that it is made again: that says 403.
        await self._insist("/heartbeat", {"run-lease": str(LEASE)}, refused=403)

    async def haunt(self) -> None:
        late = await self._insist("", self._headers(), b'{"run": "late", "n": 0}', refused=403)
        if late.status_code != 403:
            self._seen.wrong.append(f"{self._path}: a zombie's append was answered {late.status_code}")
        self._seen.deaths += 1


class Cancelled(Writer):
    """Is asked to stop by somebody else, at any Machine, and from then on has to be told so with every answer."""

    _cancelled = False

    async def _append(self, *arguments: Any) -> None:
        if self._rng.random() < CANCEL:
            await self._cancel()
        await super()._append(*arguments)

    async def _end(self) -> None:
        await self._cancel()
        await super()._end()

    async def _cancel(self) -> None:
        if not self._cancelled:
            await self._insist("/cancel", {})
            self._cancelled = True

    def _accept(self, response: httpx.Response) -> bool:
        to_writer = response.request.method == "POST" and response.is_success
        if self._cancelled and to_writer and response.headers.get("run-cancel-requested") != "true":
            self._seen.wrong.append(f"{self._path}: an answer does not say that a cancel was requested")
        return super()._accept(response)

    async def haunt(self) -> None:
        control = await self._insist("/control", {}, method="GET")
        cancels = len(json.loads(control.content))
        if cancels != 1 or control.headers.get("stream-closed") != "true":
            self._seen.wrong.append(f"{self._path}: {cancels} cancels in its control stream, or that is open")
        self._seen.cancels += cancels
