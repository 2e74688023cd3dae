"""A conversation of which each message has to reach the one application that owns it, and no other."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import httpx

from loadtests.survival.clients import Seen
from loadtests.survival.houses import Houses
from loadtests.survival.ledger import STUCK, Findings, Read
from loadtests.survival.owning import Account

LASTS = (3.0, 8.0)  # seconds, from and to
HANDS = 3  # that write at the same time, each at a Machine
PAUSE = 0.1  # seconds between two messages of one, at most
PATIENCE = 45.0  # seconds in which each is answered: a lease, and what a fault lasts
_REFUSED = (429, 503)
_UNKNOWN = (502,)  # it may have been carried out


@dataclass
class Talk:
    """Spoken to at any Machine for so many `seconds`."""

    http: httpx.AsyncClient
    doors: Sequence[str]
    houses: Houses
    rng: random.Random
    seen: Seen
    seconds: float
    key: str = field(default_factory=lambda: f"talk-{secrets.token_hex(6)}")
    ending: bool = True
    epochs: int = 0
    account: Account = field(init=False)
    _findings: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        self.account = Account(self.key)

    @property
    def path(self) -> str:
        return f"/chat/{self.key}"

    def number(self, event: dict[str, object]) -> int:
        raise NotImplementedError("nobody reads it")

    def acknowledged(self, number: int) -> float | None:
        return None

    async def create(self) -> None:
        self.houses.talks.append(self)

    async def write(self) -> None:
        """Returns when everybody has said what they had to say, and has been answered."""
        end = time.monotonic() + self.seconds
        first = self.houses.talks.index(self) % len(self.doors)  # so that each Machine owns some
        doors = [*self.doors[first:], *self.doors[:first]]
        await self._say("first", doors[0])
        async with asyncio.TaskGroup() as tasks:
            for hand in range(HANDS):
                tasks.create_task(self._speak(hand, doors[hand % len(doors)], end))

    async def _speak(self, hand: int, door: str, end: float) -> None:
        """At one Machine: where that is frozen, the others' go on."""
        for number in count():
            if time.monotonic() > end:
                return
            await self._say(f"{hand}-{number}", door)
            await asyncio.sleep(self.rng.uniform(0, PAUSE))

    async def _say(self, text: str, door: str) -> None:
        """Once: what may have been carried out is not said again."""
        url, limits, began = door + self.path, httpx.Timeout(PATIENCE), time.monotonic()
        try:
            answer = await self.http.post(url, json={"text": text}, timeout=limits)
        except httpx.TimeoutException:
            self._findings.add(STUCK, f"{self.key}: a message was not answered in {PATIENCE:g} s")
            return
        except httpx.RequestError:
            self.seen.cuts += 1
            return
        self.seen.waits.append(time.monotonic() - began)
        if answer.status_code == 202:
            self.account.taken.append(text)
            self.seen.taken += 1
        elif answer.status_code in _REFUSED:
            self.account.refused.append(text)
            self.seen.refusals += 1
        elif answer.status_code not in _UNKNOWN:
            self.seen.wrong.append(f"{self.key}: a message was answered {answer.status_code}: {answer.text[:200]}")

    async def log(self) -> Read:
        """What reached the applications is judged here, since the database has to be asked who owned it."""
        self._findings.include(await self.houses.judge([self]))
        self.seen.talks += 1
        self.seen.owners += self.epochs
        return Read("journal")

    async def haunt(self) -> None:
        """Whatever comes late is found at the end."""

    def judge(self, log: Read, readers: Sequence[Read]) -> Findings:
        return self._findings
