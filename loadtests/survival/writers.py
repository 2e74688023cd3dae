"""Writers that behave as the protocol asks, at whichever Machine answers. They keep accounts of what they were told."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx

from loadtests.survival.clients import PATIENCE, Client, Seen
from loadtests.survival.ledger import LAST, STRANGE, Findings, Read, Written, judge
from loadtests.survival.readers import Reader

PACE = 25.0  # requests of a writer a second
HANDS = 3  # that a writer has who sends each event once
LARGE = 9_000  # bytes: more than a notification carries
HUGE = 30_000  # bytes: two or three are more than a Machine remembers of a run that it follows


class Writer(Client):
    """Creates a stream, writes numbered events for a while, closes it.

    `retried`: as an idempotent producer, each request until it is acknowledged. Otherwise with several hands at once,
    and each request once, whatever comes of it, as whoever does not care.
    """

    def __init__(
        self, http: httpx.AsyncClient, doors: Sequence[str], path: str, rng: random.Random, seen: Seen,
        seconds: float, retried: bool,
    ) -> None:  # fmt: skip
        super().__init__(http, doors, path, rng, seen)
        self.seconds = seconds
        self.account = Written(path, [[] for _ in range(1 if retried else HANDS)])
        self._answered: dict[int, float] = {}  # when events were acknowledged
        self._retried = retried
        self._seq = 0

    @property
    def path(self) -> str:
        return self._path

    @property
    def ending(self) -> bool:
        return self.account.ending

    def number(self, event: dict[str, Any]) -> int:
        if event.get("type") == "run_end" and event.get("error", {}).get("name") == "ProducerLost":
            return LAST
        number: int = event["n"] if event["run"] == self._path else STRANGE
        return number

    def acknowledged(self, number: int) -> float | None:
        return self._answered.get(number)

    async def create(self) -> None:
        headers = {"content-type": "application/json"}
        while await self._send("PUT", headers) is None:
            await self._move()

    async def write(self) -> None:
        """Writes for its time, and then until the stream is closed."""
        async with asyncio.TaskGroup() as tasks:
            for hand in self.account.hands:
                tasks.create_task(self._append_for(hand))
        self.account.ending = True
        await self._end()

    async def log(self) -> Read:
        """What a reader is given who comes after the end."""
        reader = Reader(self._http, self._doors, self, self._rng, self._seen, "catch-up")
        await reader.run()
        return reader.account

    async def haunt(self) -> None:
        """What it has to say when its run has ended."""

    def judge(self, log: Read, readers: Sequence[Read]) -> Findings:
        unanswered = set(range(self.account.sent)).difference(*self.account.hands)
        self._seen.unanswered += len(unanswered)
        self._seen.landed += len(unanswered.intersection(log.given))
        return judge(log, self.account, readers)

    async def _end(self) -> None:
        await self._insist("", self._headers() | {"stream-closed": "true"})

    async def _insist(
        self, below: str, headers: dict[str, str], body: bytes = b"", method: str = "POST", refused: int = 0
    ) -> httpx.Response:
        """Asks for something at or below its run until there is an answer; `refused` is one as well."""
        while True:
            try:
                url = self._url + below
                response = await self._http.request(method, url, headers=headers, content=body, timeout=PATIENCE)
            except httpx.RequestError:
                await self._move()
                continue
            if response.status_code == refused or self._accept(response):
                return response
            await self._move()

    async def _append_for(self, hand: list[int]) -> None:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            await self._append(hand)
            await asyncio.sleep(self._rng.expovariate(PACE / len(self.account.hands)))

    async def _append(self, hand: list[int]) -> None:
        count = self._rng.choices((1, 2, 5, 80), (60, 18, 18, 4))[0]
        numbers = range(self.account.sent, self.account.sent + count)
        size = self._rng.choices((self._rng.randrange(120), LARGE, HUGE), (95, 4, 1))[0]
        padding = "x" * size
        body = json.dumps([{"run": self._path, "n": n, "p": padding} for n in numbers]).encode()
        self.account.sent += count
        while await self._send("POST", self._headers(), body) is None:
            await self._move()
            if not self._retried:
                return
        self._seq += 1
        self._seen.acknowledged += count
        hand += numbers
        self._answered |= dict.fromkeys(numbers, time.monotonic())

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._retried:
            headers |= {"producer-id": "writer", "producer-epoch": "0", "producer-seq": str(self._seq)}
        return headers
