"""A Flue app's runs as the application uses them: made from the settings, started, and mounted as routes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter

from gateway.fanout.broadcast import Broadcast
from gateway.flue import dialect
from gateway.flue.followed import FollowedTables
from gateway.flue.listing import ListRuns, make_router
from gateway.flue.orphans import Orphans
from gateway.flue.readable import readable
from gateway.flue.records import Records
from gateway.flue.routes import FlueRoutes
from gateway.flue.source import Source
from gateway.http.limits import Limits
from gateway.http.reading import Reading
from gateway.http.routes import Routes
from gateway.log.database import Database
from gateway.log.lists import Lists
from gateway.protocol.batch import Stream
from gateway.settings import Settings

TRIGGERS: Final = {
    "run_gateway_event": "flue_event_stream_entries",
    "run_gateway_closed": "flue_event_streams",
}


class Flue(FollowedTables):
    """Flue's runs on one Machine. `listens`: whether LISTEN works."""

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
        self._source = Source(database, page_bytes=settings.page_bytes, readable=shown)
        super().__init__(
            settings,
            database,
            self._source,
            of="runs",
            triggers=TRIGGERS,
            listens=listens,
            offset=dialect.offset_of,
            broadcast=broadcast,
        )
        self._records = Records(database, readable=shown, lists=lists)
        # Not compressed: Flue's SDK loses a whole run that comes a moment behind the head of its answer.
        self.reading = Reading(self._source, self.hub, limits, time.time, dialect.FLUES, offered=())
        if settings.flue_orphan_after is not None:
            orphans = Orphans(
                database,
                silence=settings.flue_orphan_after,
                followed=lambda: self.hub.tails,
                on_end=self.hub.look_again,
            )
            self._background["look for Flue's lost runs"] = orphans.run

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
