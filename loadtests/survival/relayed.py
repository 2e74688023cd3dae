"""Runs that the relay records: their clients POST and come back as such clients do, and know nothing of the gateway.

What counts is what the agent server has sent: the log is its frames from the first one on, whole and in order, and ends
with the last of them, or with the frame that says that the rest is lost.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from loadtests.survival.clients import AGAIN, PATIENCE, Client, Seen
from loadtests.survival.ledger import (
    INVENTED,
    LAST,
    LOST,
    REPEATED,
    STRANGE,
    WRONG,
    Findings,
    Read,
    judge_readers,
)
from loadtests.survival.upstream import ABLE, PLAIN, Upstream

LOOK = 0.2  # seconds between two looks at a run's record
STAY = 3.0  # seconds that a reader stays at a Machine, on average
LEFT = 20.0  # seconds in which an agent server has to be left after a run's end
ROWS = f"""
[[relay]]
name   = "{PLAIN}"
start  = "POST /{PLAIN}"
key    = "header:x-run-id"
ids    = true
attach = true
answer = {{ x-run = "{{run}}" }}
resume = ["POST /{PLAIN}", "GET /{PLAIN}/{{key}}"]
idle   = 404
lost   = 'data: {{"lost":true}}'

[[relay]]
name   = "{ABLE}"
start  = "POST /{ABLE}"
key    = "header:x-run-id"
ids    = true
attach = true
answer = {{ x-run = "{{run}}" }}
resume = ["POST /{ABLE}", "GET /{ABLE}/{{key}}"]
idle   = 404
lost   = 'data: {{"lost":true}}'
rejoin = {{ ask = "GET /{ABLE}/{{key}}", by = "header:last-event-id" }}
"""
_FRAME = re.compile(rb"(?:id: (\S+)\n)?(?:id: \d+\n)?data: ([^\n]*)\n\n")


def settings(upstream: Upstream, folder: Path) -> Mapping[str, str]:
    """What the Machines are given."""
    file = folder / "relay.toml"
    file.write_text(ROWS)
    return {
        "GATEWAY_UPSTREAM": upstream.url,
        "GATEWAY_RELAY_FILE": str(file),
        "GATEWAY_RELAY_LEASE": "3",
        "GATEWAY_RELAY_DRAIN": "1",
    }


@dataclass
class RelayedRun:
    """One answer of the agent server, by a row that can be gone on with or by one that cannot."""

    http: httpx.AsyncClient
    doors: Sequence[str]
    upstream: Upstream
    rng: random.Random
    seen: Seen
    seconds: float
    kind: str
    breaks: bool
    key: str = field(default_factory=lambda: f"relayed-{secrets.token_hex(6)}")
    id: str | None = None  # of its run, as soon as somebody is told
    ending: bool = True  # it may end at any time: its Machine is killed, say

    @property
    def path(self) -> str:
        return f"/runs/{self.id or self.key}"

    def number(self, event: dict[str, object]) -> int:
        """What the agent server has called it."""
        if event == {"lost": True}:
            return LAST
        number = event.get("n")
        return number if event.get("run") == self.key and isinstance(number, int) else STRANGE

    def acknowledged(self, number: int) -> float | None:
        return None

    def reader(self, rng: random.Random, *, asks: bool) -> RelayedReader:
        """One asks, and the others come to what it has asked for."""
        return RelayedReader(self.http, self.doors, self, rng, self.seen, asks=asks)

    async def create(self) -> None:
        self.upstream.lasts[self.key] = self.seconds
        if self.breaks:
            self.upstream.breaks.add(self.key)

    async def write(self) -> None:
        """Returns when its record says that it has ended."""
        while True:
            await asyncio.sleep(LOOK)
            if self.id is None:
                continue
            found = await self._get(f"/runs/{self.id}?meta")
            if found is not None and found.json()["status"] != "active":
                return

    async def log(self) -> Read:
        """The frames as they are in the log, at any Machine."""
        read, offset = Read("catch-up"), "-1"
        body = b""
        while not read.ended:
            page = await self._get(f"/runs/{self.id}?offset={offset}")
            if page is None:
                continue
            body += page.content
            offset = page.headers["stream-next-offset"]
            read.ended = page.headers.get("stream-closed") == "true"
        for count, found in enumerate(_FRAME.finditer(body), 1):
            read.given.append(self.number(json.loads(found[2])))
            read.places.append((_place(count), count))
        self.seen.relayed += 1
        self.seen.lost += read.given[-1:] == [LAST]
        turn = self.upstream.turn(self.key)
        self.seen.rejoined += turn.asked
        return read

    async def haunt(self) -> None:
        """Nobody reads on from the agent server after the end."""
        turn, until = self.upstream.turn(self.key), time.monotonic() + LEFT
        while turn.readers and time.monotonic() < until:  # noqa: ASYNC110  so too
            await asyncio.sleep(LOOK)
        if turn.readers:
            self.seen.wrong.append(f"{self.path}: the agent server is still read after its run's end")

    def judge(self, log: Read, readers: Sequence[Read]) -> Findings:
        findings, turn = Findings(), self.upstream.turn(self.key)
        lost = log.given[-1:] == [LAST]
        frames = log.given[:-1] if lost else log.given
        findings.add(WRONG, f"{self.path}: the agent server was asked {turn.calls} times", max(0, turn.calls - 1))
        if frames != list(range(len(frames))):
            twice = len(frames) - len(set(frames))
            findings.add(REPEATED, f"{self.path}: more than once in the log, of {len(frames)}", twice)
            findings.add(LOST, f"{self.path}: its log is no beginning of what was sent", int(not twice))
        findings.add(INVENTED, f"{self.path}: more in the log than was sent", int(len(frames) > len(turn.frames)))
        short = not lost and len(frames) < len(turn.frames)
        findings.add(LOST, f"{self.path}: ended as whole after {len(frames)} of {len(turn.frames)}", int(short))
        unable = lost and self.kind == ABLE and frames != []  # before its first frame nobody knows what to go on with
        findings.add(LOST, f"{self.path}: lost after {len(frames)}, though it could be gone on with", int(unable))
        findings.include(judge_readers(self.path, log, readers))
        return findings

    async def _get(self, target: str) -> httpx.Response | None:
        try:
            response = await self.http.get(self.rng.choice(self.doors) + target, timeout=PATIENCE)
        except httpx.RequestError:
            await asyncio.sleep(AGAIN)
            return None
        if response.status_code in (200, 204):
            return response
        self.seen.refusals += 1
        if response.status_code != 503:
            self.seen.wrong.append(f"{self.path}: {target} was answered {response.status_code}")
        await asyncio.sleep(AGAIN)
        return None


class RelayedReader(Client):
    """Asks, or comes to what was asked, and goes on by its last id at any Machine until a response ends cleanly."""

    def __init__(
        self, http: httpx.AsyncClient, doors: Sequence[str], run: RelayedRun, rng: random.Random, seen: Seen, *,
        asks: bool,
    ) -> None:  # fmt: skip
        super().__init__(http, doors, f"/{run.kind}", rng, seen)
        self.account = Read("POST" if asks else "GET")
        self._run = run
        self.asks = asks
        self._last: str | None = None

    async def run(self) -> None:
        while not self.account.ended:
            try:
                async with asyncio.timeout(self._rng.expovariate(1 / STAY)):
                    await self._visit()
            except (TimeoutError, httpx.RequestError):
                await self._move()
            except ValueError as error:
                self._seen.wrong.append(f"{self._run.path}: an answer by {self.account.mode} cannot be read: {error}")
                return

    async def _visit(self) -> None:
        headers = {"x-run-id": self._run.key, "accept": "text/event-stream"}
        if self._last is not None:
            headers["last-event-id"] = self._last
        method, url, body = "GET", f"{self._url}/{self._run.key}", None
        if self.asks:
            method, url, body = "POST", self._url, b"{}"
        async with self._http.stream(method, url, headers=headers, content=body, timeout=PATIENCE) as response:
            if not self._taken(response):
                raise httpx.RequestError("not now")
            self._run.id = response.headers.get("x-run", self._run.id)
            rest = b""
            try:
                async for piece in response.aiter_raw():
                    rest = self._take(rest + piece)
            except httpx.RequestError:
                self._seen.cuts += 1
                raise
            if rest or "x-run" not in response.headers:  # an EventSource is sent away by a 200 that is cut
                raise ValueError("it ends as if it were whole")
            self.account.ended = True  # a clean end is the end

    def _taken(self, response: httpx.Response) -> bool:
        if response.status_code == 200:
            return True
        self._seen.refusals += 1
        expected = (503, 404) if self.account.given == [] else (503,)  # nobody may have asked yet
        if response.status_code not in expected:
            self._seen.wrong.append(f"{self._run.path}: {self.account.mode} was answered {response.status_code}")
        return False

    def _take(self, data: bytes) -> bytes:
        *frames, rest = data.split(b"\n\n")
        for frame in frames:
            if frame.startswith(b":"):
                continue
            found = _FRAME.fullmatch(frame + b"\n\n")
            if found is None or found[1] is None:
                raise ValueError(f"{frame[:80]!r} is no frame of ours")
            self.account.given.append(self._run.number(json.loads(found[2])))
            self._last = found[1].decode()
            self.account.places.append((_place(int(self._last.rpartition(".")[2])), len(self.account.given)))
            self._seen.delivered += 1
        return rest


def _place(position: int) -> str:
    return f"{position:019}"
