"""A Flue app's runs as the application uses them: made from the settings, started, and mounted as routes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter

from gateway.fanout.broadcast import Broadcast
from gateway.fanout.hub import Hub
from gateway.flue import dialect
from gateway.flue.listing import ListRuns, make_router
from gateway.flue.news import How, Told, Triggers
from gateway.flue.orphans import Orphans
from gateway.flue.readable import readable
from gateway.flue.records import Records
from gateway.flue.routes import FlueRoutes
from gateway.flue.source import Source
from gateway.http.limits import Limits
from gateway.http.reading import Reading
from gateway.http.routes import Routes
from gateway.lifetime import Background
from gateway.log.database import Database
from gateway.log.lists import Lists
from gateway.protocol.batch import Stream
from gateway.settings import Settings

TRIGGERS: Final = {
    "run_gateway_event": "flue_event_stream_entries",
    "run_gateway_closed": "flue_event_streams",
}


class Flue:
    """Flue's runs on one Machine: a hub of their own, over Flue's tables. `listens`: whether LISTEN works."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        limits: Limits,
        broadcast: Broadcast,
        listens: Callable[[], bool],
        lists: Lists | None = None,
    ) -> None:
        shown = readable(settings.flue_workflows, gated=settings.auth != "none")
        self._settings = settings
        self._listens = listens
        self._source = Source(database, page_bytes=settings.page_bytes, readable=shown)
        self._records = Records(database, readable=shown, lists=lists)
        self.hub = Hub(
            read=self._source.live,
            positions=self._source.positions,
            touch=self._source.touch,
            now=time.time,
            clock=time.monotonic,
            heartbeat=settings.heartbeat,
            sweep_interval=self._sweep_interval,
            offset=dialect.offset_of,
            broadcast=broadcast,
            away=database.away,
        )
        # Not compressed: Flue's SDK loses a whole run that comes a moment behind the head of its answer.
        self.reading = Reading(self._source, self.hub, limits, time.time, dialect.FLUES, offered=())
        self.told = Told(self.hub)
        self._triggers = Triggers(database, "runs", TRIGGERS, on_change=self.hub.look_again)
        self._orphans = (
            None
            if settings.flue_orphan_after is None
            else Orphans(
                database,
                silence=settings.flue_orphan_after,
                followed=lambda: self.hub.tails,
                on_end=self.hub.look_again,
            )
        )
        runs = {"timer of Flue's readers": self.hub.run, "look for Flue's triggers": self._triggers.run}
        if self._orphans is not None:
            runs["look for Flue's lost runs"] = self._orphans.run
        self._background = Background(runs)

    def routes(self, native: Routes, stat: Callable[[str], Awaitable[Stream]]) -> FlueRoutes:
        """The gateway's own stream routes, with Flue's runs among them. `stat` asks the gateway's own log."""
        return FlueRoutes(native, stat, self._source, self._records, self.reading)

    def router(self, own: ListRuns) -> APIRouter:
        """`GET /runs`, to stand before the one of the gateway's own runs."""
        return make_router(self._records, own)

    async def taken(self, run: str) -> bool:
        """True if Flue has a run of this id that may be read here."""
        return await self._source.taken(run)

    async def find(self, run: str) -> int:
        """A number that stands for its stream's id. Raises NoSuchRun unless there is such a run to be read."""
        return await self._source.find(run)

    @property
    def reads(self) -> int:
        """Pages read from Flue's tables."""
        return self._source.reads

    @property
    def news(self) -> How:
        """The way in which news of Flue's runs arrives at the moment."""
        return "triggers" if self._triggers.there and self._listens() else "polling"

    async def start(self) -> None:
        """Begins to receive news. Raises Unavailable."""
        await self._triggers.look()
        self._background.start()

    async def stop(self) -> None:
        await self._background.stop()

    def _sweep_interval(self) -> float:
        return self._settings.sweep_interval if self.news == "triggers" else self._settings.flue_poll_interval
