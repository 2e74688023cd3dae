"""A Flue app's servers, which fail as Machines do, and its runs, which readers follow at the gateway's Machines.

Nobody acknowledges an event of Flue's to anybody: what counts is what the app's own tables hold when a run has ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx

from gateway.flue import schema
from gateway.tasks import end
from loadtests.survival.clients import AGAIN, PATIENCE, Seen
from loadtests.survival.fleet import launch
from loadtests.survival.ledger import LOST, Findings, Read, judge_readers
from tests.tools.database import GONE, Connection, Database
from tests.tools.flue_server import FlueFailed, FlueServer
from tests.tools.proxy import Proxy

Answer = TypeVar("Answer")

SERVERS = 2
ORPHAN_AFTER = 3.0  # seconds; longer than a run of these is ever silent while its server writes
STOP_PATIENCE = 5.0  # seconds from SIGTERM to SIGKILL, as a platform has it
INTERVAL = (20, 120)  # milliseconds between two events, from and to
LOOK = 0.2  # seconds between two looks at a run's record
SETTINGS = {
    "GATEWAY_FLUE": "on",
    "GATEWAY_FLUE_WORKFLOWS": "*",
    "GATEWAY_FLUE_ORPHAN_AFTER": f"{ORPHAN_AFTER:g}",
}
_STREAM = "SELECT 1 FROM flue_event_streams WHERE path = 'runs/' || $1"
_ENDED = """
    SELECT r.status <> 'active' AND s.closed FROM flue_runs r JOIN flue_event_streams s ON s.path = 'runs/' || r.run_id
     WHERE r.run_id = $1
"""
_EVENTS = "SELECT seq, data FROM flue_event_stream_entries WHERE path = 'runs/' || $1 ORDER BY seq"


class Site:
    """One server and its way to Postgres. Only one fault at a time ends or freezes its process."""

    def __init__(self, server: FlueServer, back: Proxy) -> None:
        self.server = server
        self.back = back
        self.busy = asyncio.Lock()

    async def start(self) -> None:
        """Starts the process. Raises FlueFailed."""
        await launch(self.server, FlueFailed)

    async def terminate(self) -> None:
        """SIGTERM, and SIGKILL if that is not enough."""
        try:
            async with asyncio.timeout(STOP_PATIENCE):
                await self.server.terminate()
        except TimeoutError:
            await self.server.kill()

    async def stand_by(self) -> None:
        """Starts it again, as a platform does, whenever it has ended by itself: it may, when Postgres cuts it off."""
        while True:
            await asyncio.sleep(LOOK)
            async with self.busy:
                if not self.server.running:
                    await self.start()


class App(NamedTuple):
    """All servers of one app."""

    sites: Sequence[Site]
    database: Database

    async def attach(self) -> None:
        """News by triggers, from now on."""
        async with self.database.connection() as connection:
            await schema.attach(connection)

    async def detach(self) -> None:
        """News by polling, from now on."""
        async with self.database.connection() as connection:
            await schema.detach(connection)


@asynccontextmanager
async def open_app(folder: Path, database: Database) -> AsyncIterator[App]:
    """Its servers, ended with the block; the first one makes the tables, which get their triggers."""
    async with AsyncExitStack() as stack:
        sites = []
        for _ in range(SERVERS):
            back = await stack.enter_async_context(Proxy(database.socket))
            server = FlueServer(folder, database.through(back.port))
            stack.push_async_callback(server.kill)
            site = Site(server, back)
            await site.start()
            sites.append(site)
        app = App(sites, database)
        await app.attach()
        standing_by = [asyncio.create_task(site.stand_by()) for site in sites]
        try:
            yield app
        finally:
            await end(*standing_by)


@dataclass
class FlueRun:
    """A run of the workflow `ticker`, which is part of the app, at any of its servers."""

    http: httpx.AsyncClient
    app: App
    rng: random.Random
    seen: Seen
    seconds: float
    id: str = field(default="", init=False)
    ending: bool = field(default=True, init=False)  # it may end at any time: its server has been killed, say
    _made: dict[int, float] = field(default_factory=dict, init=False)

    @property
    def path(self) -> str:
        return f"/runs/{self.id}"

    def number(self, event: dict[str, Any]) -> int:
        """Drawn from the whole event: two with a difference are two."""
        number = int.from_bytes(hashlib.sha256(json.dumps(event, sort_keys=True).encode()).digest()[:8])
        made = event.get("attributes", {}).get("emittedAt")
        if made is not None:
            self._made[number] = time.monotonic() - (time.time() - made / 1000)
        return number

    def acknowledged(self, number: int) -> float | None:
        """When it was made, which is before Flue has it in its table."""
        return self._made.get(number)

    async def create(self) -> None:
        """Returns when it has a stream."""
        interval = self.rng.uniform(*INTERVAL)
        ticks = {"n": int(1000 * self.seconds / interval), "intervalMs": interval, "fail": self.rng.random() < 0.2}
        padding = {"pad": self.rng.choice((0, 0, 0, 100, 9_000))}
        while not await self._invoke(ticks | padding):  # noqa: ASYNC110  it is asked
            await asyncio.sleep(AGAIN)
        await self._until(_STREAM)

    async def write(self) -> None:
        """Returns when it has ended, by Flue or by a Machine."""
        await self._until(_ENDED)

    async def log(self) -> Read:
        """What the app's tables hold."""
        rows = await self._ask(lambda connection: connection.fetch(_EVENTS, self.id))
        events = [json.loads(row["data"]) for row in rows]
        self.seen.abandoned += events[-1].get("error", {}).get("name") == "RunAbandoned" if events else 0
        self.seen.flue += 1
        places = [("-1", 0), *((f"{0:016}_{row['seq']:016}", count) for count, row in enumerate(rows, 1))]
        return Read("Flue's tables", [self.number(event) for event in events], places, ended=True)

    async def haunt(self) -> None:
        """Its server may still write, which Flue's own table refuses."""

    def judge(self, log: Read, readers: Sequence[Read]) -> Findings:
        findings = Findings()
        places = [f"{0:016}_{number:016}" for number in range(len(log.given))]
        holes = [place for place, _ in log.places[1:]] != places
        findings.add(LOST, f"{self.path}: its numbers in Flue's table have holes", int(holes))
        findings.include(judge_readers(self.path, log, readers))
        return findings

    async def _invoke(self, input: dict[str, Any]) -> bool:
        url = self.rng.choice(self.app.sites).server.url
        try:
            response = await self.http.post(f"{url}/workflows/ticker", json=input, timeout=PATIENCE)
        except httpx.RequestError:
            return False
        if response.status_code == 202:
            self.id = response.json()["runId"]
        return response.status_code == 202

    async def _until(self, question: str) -> None:
        while not await self._ask(lambda connection: connection.fetchval(question, self.id)):  # noqa: ASYNC110  so too
            await asyncio.sleep(LOOK)

    async def _ask(self, question: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """The answer, as soon as there is a Postgres to give it."""
        while True:
            try:
                async with self.app.database.connection() as connection:
                    return await question(connection)
            except GONE:
                await asyncio.sleep(LOOK)
