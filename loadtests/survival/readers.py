"""Readers that behave as the protocol asks, and as browsers do, and move between Machines. They keep accounts."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import httpx

from loadtests.people.continuity import START, Batch, Ids, Lines
from loadtests.survival.clients import PATIENCE, Client, Seen
from loadtests.survival.ledger import LAST, Read

MODES = ("sse", "event-source", "long-poll", "catch-up")
MOST = 0.75  # of all readers begin at the beginning
WHOLE: Mapping[str, str] = {"offset": START}
STAY = 3.0  # seconds that a reader stays at a Machine, on average, before it moves to another for no reason


class Run(Protocol):
    """What is known of a run to whoever checks its readers."""

    @property
    def path(self) -> str:
        """From its Machine's address on."""
        ...

    @property
    def ending(self) -> bool:
        """Whether a reader may be told of its end by now."""
        ...

    def number(self, event: dict[str, Any]) -> int:
        """What the event is called in accounts."""
        ...

    def acknowledged(self, number: int) -> float | None:
        """When the log was known to hold that event, by this process's clock; None where it was not."""
        ...


def beginning(rng: random.Random) -> Mapping[str, str]:
    """Most read all; some begin at whatever is the end when they come, or so many events before that."""
    if rng.random() < MOST:
        return WHOLE
    last = rng.randrange(30)
    return {"offset": START, "tail": str(last)} if last else {"offset": "now"}


class Reader(Client):
    """Reads a stream to its end, in one mode, and leaves a Machine now and then for no reason.

    `begin`: the parameters of its first request.
    """

    def __init__(
        self, http: httpx.AsyncClient, doors: Sequence[str], run: Run, rng: random.Random, seen: Seen, mode: str,
        begin: Mapping[str, str] = WHOLE,
    ) -> None:  # fmt: skip
        super().__init__(http, doors, run.path, rng, seen)
        self.account = Read(mode, whole=begin == WHOLE)
        self._begin = dict(begin)
        self._run = run
        self._offset = ""  # where it goes on, as it was told
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

    def _query(self) -> dict[str, str]:
        return {"offset": self._offset} if self._offset else self._begin

    async def _follow(self) -> None:
        browser = self.account.mode == "event-source"  # it asks for the same URL again, and tells the last id
        query = (self._begin if browser else self._query()) | {"live": "sse"}
        last = {"last-event-id": self._offset} if browser and self._offset else {}
        async with self._http.stream("GET", self._url, params=query, headers=last, timeout=PATIENCE) as response:
            self._demand(response)
            if response.status_code == 204:  # how an EventSource is told that it has all
                self._take(Batch([], response.headers["stream-next-offset"], None, True))
                return
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
        response = await self._http.get(self._url, params=self._query() | live, timeout=PATIENCE)
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
        numbers = [self._run.number(event) for event in batch.events]
        account.given += numbers
        account.places.append((batch.offset, len(account.given)))
        self._offset = batch.offset
        self._seen.delivered += len(batch.events)
        if batch.closed:
            account.ended = True
            account.early = not self._run.ending
        if batch.events and account.mode != "catch-up" and numbers != [LAST]:  # a dead writer's silence is no gap
            if self._last:
                self._seen.gaps.append((self._last, now - self._last))
                self._seen.late += [now - at for at in map(self._run.acknowledged, numbers) if at is not None]
            self._last = now
