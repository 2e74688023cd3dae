"""Who knows the addresses of all Machines, and goes from one to the next: what writers and readers have in common.

They share no code with the gateway or its client: an error in those cannot excuse itself here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

PATIENCE = httpx.Timeout(8.0, connect=2.0)  # longer than a long-poll and several heartbeats take
AGAIN = 0.1  # seconds before a client tries the next Machine, give or take a half
PASSING = (429, 503)  # what a Machine may say when it cannot now


@dataclass
class Seen:
    """What the clients of one run of the harness have noticed together."""

    gaps: list[tuple[float, float]] = field(
        default_factory=list
    )  # at a live reader: when something arrived, and for how many seconds nothing did from then on
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
    flue: int = 0  # runs of Flue's
    abandoned: int = 0  # of these the gateway had to end
    relayed: int = 0  # runs of the relay's
    rejoined: int = 0  # times that the rest of one was asked for
    lost: int = 0  # of these runs ended as lost
    talks: int = 0  # conversations that have an owner
    taken: int = 0  # messages of these that an application took
    owners: int = 0  # epochs of these
    waits: list[float] = field(default_factory=list)  # seconds until their messages were answered
    told: int = 0  # readers that what they had been given was lost
    rewound: int = 0  # writers that what they had been acknowledged was
    forgotten: int = 0  # events of these


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
