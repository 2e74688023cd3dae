"""Writers and readers who live through takeovers by a standby that lacks what they were told: a future is lost.

Their law: whoever was given what is lost is told, a reader by 410 and an offset that still means what it did, a
producer by a refusal; having gone back there, each has exactly the log in the end. Creations and ends are not lost,
since those keep the calm.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from loadtests.people.continuity import START
from loadtests.survival.calm import Calm
from loadtests.survival.clients import PATIENCE
from loadtests.survival.readers import Reader
from loadtests.survival.stage import LASTS, Scene, Stage
from loadtests.survival.writers import Writer

AWAY = 2.0  # seconds
_LOST = 410
_GAPS = ("producer_sequence_gap", "invalid_epoch_start")


class Resuming(Writer):
    """An idempotent producer that, when it is told that the log lacks what it was acknowledged, looks what is left, and
    goes on from there in an epoch of its own with other events, as an agent whose next try says something else.
    """

    def __init__(self, calm: Calm, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._calm = calm
        self._epoch = 0

    async def create(self) -> None:
        async with self._calm.kept():
            await super().create()

    async def _send(self, method: str, headers: dict[str, str], body: bytes = b"") -> httpx.Response | None:
        try:
            response = await self._http.request(method, self._url, headers=headers, content=body, timeout=PATIENCE)
        except httpx.RequestError:
            return None
        if response.status_code in (409, 400) and response.json()["error"]["type"] in _GAPS:
            await self._look()
            return None
        return response if self._accept(response) else None

    async def _look(self) -> None:
        """Of what was acknowledged, forgets what is not there."""
        (hand,) = self.account.hands
        held = await self._held()
        lacking = [number for number in hand if number not in held]
        if not lacking:
            self._seen.wrong.append(f"{self._path}: its producer was refused, and nothing was lost")
        hand[:] = [number for number in hand if number in held]
        self._seen.rewound += 1
        self._seen.forgotten += len(lacking)
        self._epoch, self._seq = self._epoch + 1, 0

    async def _held(self) -> set[int]:
        numbers: set[int] = set()
        offset, up_to_date = START, False
        while not up_to_date:
            page = await self._insist(f"?offset={offset}", {}, method="GET", refused=_LOST)
            if page.status_code == _LOST:
                return await self._held()
            numbers.update(map(self.number, page.json()))
            offset, up_to_date = page.headers["stream-next-offset"], "stream-up-to-date" in page.headers
        return numbers

    def _headers(self) -> dict[str, str]:
        return super()._headers() | {"producer-epoch": str(self._epoch)}

    async def _end(self) -> None:
        async with self._calm.kept():
            while await self._send("POST", self._headers() | {"stream-closed": "true"}) is None:
                await self._move()


class Returning(Reader):
    """Goes back to where it is told to, and forgets what came after: to the beginning, if it has never been there. Some
    stay away for a moment, in which other events may have come in place of what is lost.
    """

    async def _move(self) -> None:
        await super()._move()
        await asyncio.sleep(self._rng.choice((0, 0, AWAY)))

    def _accept(self, response: httpx.Response) -> bool:
        offset = response.headers.get("stream-next-offset")
        if response.status_code != _LOST or offset is None:
            return super()._accept(response)
        if offset >= self._offset:
            self._seen.wrong.append(f"{self._path}: a reader at {self._offset} was told to go back to {offset}")
        self._seen.told += 1
        account = self.account
        while account.places and account.places[-1][0] > offset:
            account.places.pop()
        if account.places and account.places[-1][0] == offset:
            del account.given[account.places[-1][1] :]
            self._offset = offset
        else:
            account.given.clear()
            account.places.clear()
            self._offset = ""
        return False


@dataclass
class LaggingStage(Stage):
    """Only such writers and readers, and no chores: what those are told by a COMMIT may be lost."""

    calm: Calm = field(default_factory=Calm)

    def _begins(self, number: int) -> Callable[[httpx.AsyncClient], Scene]:
        def begin(http: httpx.AsyncClient) -> Resuming:
            path = f"/runs/survival-{secrets.token_hex(6)}"
            return Resuming(
                self.calm, http, self.doors, path, self._chance(), self.seen, self.rng.uniform(*LASTS), retried=True
            )

        return begin

    def _reader(self, http: httpx.AsyncClient, scene: Scene, mode: str) -> Reader:
        return Returning(http, self.doors, scene, self._chance(), self.seen, mode)
