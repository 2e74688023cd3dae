"""A Flue app's runs as the application uses them: made from the settings, started, told of news, asked for routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.fanout.hub import Hub
from gateway.flue import dialect
from gateway.flue.news import PREFIX, How, Triggers
from gateway.flue.orphans import Orphans
from gateway.flue.records import Records
from gateway.flue.routes import AppendDirectly, FlueRoutes, Routes
from gateway.flue.source import Source, one_line
from gateway.http.reading import Limits, Reading
from gateway.log.database import Database
from gateway.protocol.batch import News, Stream
from gateway.settings import Settings


class Flue:
    """Flue's runs on one Machine: a hub of their own, over Flue's tables. `listens`: whether LISTEN works."""

    def __init__(self, settings: Settings, database: Database, limits: Limits, listens: Callable[[], bool]) -> None:
        # Who holds a key is let in by that; without keys, somebody has to say what everybody may read.
        readable = _readable(settings.flue_workflows or (None if settings.auth == "none" else "*"))
        self._settings = settings
        self._listens = listens
        self._source = Source(database, page_bytes=settings.page_bytes, readable=readable)
        self._records = Records(database, readable=readable)
        self.hub = Hub(
            read=self._source.live,
            positions=self._source.positions,
            touch=self._source.touch,
            now=time.time,
            clock=time.monotonic,
            heartbeat=settings.heartbeat,
            sweep_interval=self._sweep_interval,
            offset=dialect.offset_of,
        )
        self.reading = Reading(self._source, self.hub, limits, time.time, dialect.FLUES)
        self._triggers = Triggers(database, on_change=self.hub.look_again)
        self._orphans = (
            None
            if settings.flue_orphan_after is None
            else Orphans(database, silence=settings.flue_orphan_after, on_end=self.hub.look_again)
        )

    def routes(
        self, native: Routes, append_directly: AppendDirectly, stat: Callable[[str], Awaitable[Stream]]
    ) -> FlueRoutes:
        """The gateway's own stream routes, with Flue's runs among them. `stat` asks the gateway's own log."""
        return FlueRoutes(native, append_directly, stat, self._source, self._records, self.reading)

    @property
    def reads(self) -> int:
        """Pages read from Flue's tables."""
        return self._source.reads

    @property
    def news(self) -> How:
        """How news of Flue's runs arrives at the moment."""
        return "triggers" if self._triggers.there and self._listens() else "polling"

    def hears(self, ring: Callable[[News], None]) -> Callable[[News], None]:
        """What is to hear all news: that of Flue's runs stays here, the gateway's own goes on to `ring`."""

        def hear(news: News) -> None:
            if news.path.startswith(PREFIX):
                news.path = news.path[len(PREFIX) :]
                news.body = news.body and one_line(news.body)
                self.hub.ring(news)
            else:
                ring(news)

        return hear

    async def start(self) -> list[asyncio.Task[None]]:
        """Begins to hear; the tasks run until they are cancelled. Raises Unavailable."""
        await self._triggers.look()
        parts = [self.hub.run(), self._triggers.run()]
        if self._orphans is not None:
            parts.append(self._orphans.run())
        return [asyncio.create_task(part) for part in parts]

    def _sweep_interval(self) -> float:
        return self._settings.sweep_interval if self.news == "triggers" else self._settings.flue_poll_interval


def _readable(workflows: str | None) -> Callable[[str], bool]:
    """A list of names, `*` for all, None for nothing."""
    if workflows == "*":
        return lambda _: True
    names: Final = frozenset(name.strip() for name in (workflows or "").split(","))
    return names.__contains__
