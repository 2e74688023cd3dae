"""Writers and readers that behave as the protocol asks, and move between Machines. They keep accounts.

They share no code with the gateway or its client: an error in those cannot excuse itself here.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from loadtests.continuity import START, Batch, Ids, Lines
from loadtests.survival.ledger import LAST, STRANGE, Read, Written

MODES = ("sse", "event-source", "long-poll", "catch-up")
PATIENCE = httpx.Timeout(8.0, connect=2.0)  # longer than a long-poll and several heartbeats take
AGAIN = 0.1  # seconds before a client tries the next Machine, give or take a half
PASSING = (429, 503)  # what a Machine may say when it cannot now
PACE = 25.0  # requests of a writer a second
HANDS = 3  # that a writer has who sends each event once
LARGE = 9_000  # bytes: more than a notification carries
STAY = 3.0  # seconds that a reader stays at a Machine, on average, before it moves to another for no reason


@dataclass
class Seen:
    """What the clients of one run of the harness have noticed together."""

    gaps: list[float] = field(default_factory=list)  # seconds between two arrivals at a live reader
    late: list[float] = field(default_factory=list)  # seconds from an event's acknowledgement to a live reader
    cuts: int = 0  # responses that broke off in the middle
    refusals: int = 0
    wrong: list[str] = field(default_factory=list)  # answers that no fault excuses
    acknowledged: int = 0
    unanswered: int = 0  # events that were never acknowledged
    landed: int = 0  # and are in the log
    delivered: int = 0
    deaths: int = 0  # of writers, whose runs the gateway had to end
    cancels: int = 0


class Client:
    """Somebody who knows the addresses of all Machines, and goes to the next one when one fails."""

    def __init__(self, http: httpx.AsyncClient, doors: Sequence[str], path: str, rng: random.Random, seen: Seen):
        self._http = http
        self._doors = rng.sample(list(doors), len(doors))
        self._path = path
        self._rng = rng
        self._seen = seen

    @property
    def _url(self) -> str:
        return self._doors[0] + self._path

    async def _move(self) -> None:
        self._doors.append(self._doors.pop(0))
        await asyncio.sleep(AGAIN * self._rng.uniform(0.5, 1.5))

    async def _send(self, method: str, headers: dict[str, str], body: bytes = b"") -> httpx.Response | None:
        """The answer; None where there is none, or one that says to try again."""
        try:
            response = await self._http.request(method, self._url, headers=headers, content=body, timeout=PATIENCE)
        except httpx.RequestError:
            return None
        return response if self._accept(response) else None

    def _accept(self, response: httpx.Response) -> bool:
        """Whether it is an answer; otherwise the next Machine is asked, which ends when the harness loses patience."""
        if response.status_code in (200, 201, 202, 204):
            return True
        self._seen.refusals += 1
        if response.status_code not in PASSING:
            self._seen.wrong.append(f"{self._path}: {response.request.method} was answered {response.status_code}")
        return False


class Writer(Client):
    """Creates a stream, writes numbered events for a while, closes it.

    `retried`: as an idempotent producer, each request until it is acknowledged. Otherwise with several hands at once,
    and each request once, whatever comes of it, as whoever does not care.
    """

    def __init__(
        self, http: httpx.AsyncClient, doors: Sequence[str], path: str, rng: random.Random, seen: Seen, retried: bool
    ) -> None:
        super().__init__(http, doors, path, rng, seen)
        self.account = Written(path, [[] for _ in range(1 if retried else HANDS)])
        self.answered: dict[int, float] = {}  # when events were acknowledged
        self._retried = retried
        self._seq = 0

    async def create(self) -> None:
        headers = {"content-type": "application/json"}
        while await self._send("PUT", headers) is None:
            await self._move()

    async def write(self, seconds: float) -> None:
        """Writes for so many seconds, and then until the stream is closed."""
        async with asyncio.TaskGroup() as tasks:
            for hand in self.account.hands:
                tasks.create_task(self._append_for(seconds, hand))
        self.account.ending = True
        await self._end()

    async def haunt(self) -> None:
        """What it has to say when its run has ended."""

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

    async def _append_for(self, seconds: float, hand: list[int]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await self._append(hand)
            await asyncio.sleep(self._rng.expovariate(PACE / len(self.account.hands)))

    async def _append(self, hand: list[int]) -> None:
        count = self._rng.choice((1, 1, 1, 2, 5))
        numbers = range(self.account.sent, self.account.sent + count)
        padding = "x" * (LARGE if self._rng.random() < 0.04 else self._rng.randrange(120))
        body = json.dumps([{"run": self._path, "n": n, "p": padding} for n in numbers]).encode()
        self.account.sent += count
        while await self._send("POST", self._headers(), body) is None:
            await self._move()
            if not self._retried:
                return
        self._seq += 1
        self._seen.acknowledged += count
        hand += numbers
        self.answered |= dict.fromkeys(numbers, time.monotonic())

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._retried:
            headers |= {"producer-id": "writer", "producer-epoch": "0", "producer-seq": str(self._seq)}
        return headers


class Reader(Client):
    """Reads a stream from its start to its end, in one mode, and leaves a Machine now and then for no reason."""

    def __init__(
        self, http: httpx.AsyncClient, doors: Sequence[str], writer: Writer, rng: random.Random, seen: Seen, mode: str
    ) -> None:
        super().__init__(http, doors, writer.account.run, rng, seen)
        self.account = Read(mode)
        self._writer = writer
        self._offset = START
        self._last = 0.0

    async def run(self) -> None:
        """Until the stream says that it has ended."""
        visit = self._follow if self.account.mode in ("sse", "event-source") else self._poll
        while not self.account.ended:
            try:
                async with asyncio.timeout(self._rng.expovariate(1 / STAY)):
                    while not self.account.ended:
                        await visit()
            except (TimeoutError, httpx.RequestError):
                await self._move()
            except (ValueError, LookupError) as error:
                self._seen.wrong.append(f"{self._path}: an answer by {self.account.mode} cannot be read: {error}")
                return

    async def _follow(self) -> None:
        browser = self.account.mode == "event-source"  # it asks for the same URL again, and tells the last id
        query = {"offset": START if browser else self._offset, "live": "sse"}
        last = {"last-event-id": self._offset} if browser and self._offset != START else {}
        async with self._http.stream("GET", self._url, params=query, headers=last, timeout=PATIENCE) as response:
            self._demand(response)
            lines, rest = Ids() if browser else Lines(), b""
            try:
                async for piece in response.aiter_raw():
                    *ended, rest = (rest + piece).split(b"\n")
                    for line in ended:
                        batch = lines.take(line)
                        if batch is not None:
                            self._take(batch)
            except httpx.RequestError:
                self._seen.cuts += 1
                raise

    async def _poll(self) -> None:
        live = {"live": "long-poll"} if self.account.mode == "long-poll" else {}
        response = await self._http.get(self._url, params={"offset": self._offset, **live}, timeout=PATIENCE)
        self._demand(response)
        headers = response.headers
        closed = headers.get("stream-closed") == "true"
        self._take(Batch(json.loads(response.content or b"[]"), headers["stream-next-offset"], None, closed))
        if not live and "stream-up-to-date" in headers:
            await asyncio.sleep(0.05)  # whoever polls does so now and then

    def _demand(self, response: httpx.Response) -> None:
        if not self._accept(response):
            raise httpx.RequestError("not now")

    def _take(self, batch: Batch) -> None:
        now, account = time.monotonic(), self.account
        account.given += map(self._number, batch.events)
        account.places.append((batch.offset, len(account.given)))
        self._offset = batch.offset
        self._seen.delivered += len(batch.events)
        if batch.closed:
            account.ended = True
            account.early = not self._writer.account.ending
        if batch.events and account.mode != "catch-up":
            if self._last:
                answered = [self._writer.answered.get(n, now) for n in account.given[-len(batch.events) :]]
                self._seen.gaps.append(now - self._last)
                self._seen.late += [now - at for at in answered]
            self._last = now

    def _number(self, event: dict[str, Any]) -> int:
        if event.get("type") == "run_end" and event.get("error", {}).get("name") == "ProducerLost":
            return LAST
        number: int = event["n"] if event["run"] == self._path else STRANGE
        return number
