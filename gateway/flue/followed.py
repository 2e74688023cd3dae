"""Streams in a Flue app's tables, followed on one Machine: by a hub of their own, which triggers or polling feed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from gateway.fanout.broadcast import Broadcast
from gateway.fanout.hub import Hub
from gateway.flue.news import How, Notifications, Triggers
from gateway.lifetime import Background
from gateway.log.database import Database
from gateway.protocol.batch import Page
from gateway.protocol.offset import format_offset
from gateway.settings import Settings


class Source(Protocol):
    """The port to the tables, as a hub needs it. `reads` counts the pages."""

    reads: int

    async def live(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page: ...
    async def positions(self, paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]: ...
    async def touch(self, paths: Iterable[str]) -> None: ...


class FollowedTables:
    """A part of a Machine that follows tables of Flue's. `of`: what they hold. `listens`: whether LISTEN works."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        source: Source,
        *,
        of: str,
        triggers: Mapping[str, str],
        listens: Callable[[], bool],
        offset: Callable[[int], bytes] = format_offset,
        broadcast: Broadcast | None = None,
    ) -> None:
        self.hub = Hub(
            read=source.live,
            positions=source.positions,
            touch=source.touch,
            now=time.time,
            clock=time.monotonic,
            heartbeat=settings.heartbeat,
            sweep_interval=self._sweep_interval,
            offset=offset,
            broadcast=broadcast,
            away=database.away,
        )
        self.notifications = Notifications(self.hub)
        self._settings = settings
        self._listens = listens
        self._tables = source
        self._triggers = Triggers(database, of, triggers, on_change=self.hub.look_again)
        self._background: dict[str, Callable[[], Awaitable[None]]] = {
            f"timer of readers of Flue's {of}": self.hub.run,
            f"look for triggers of Flue's {of}": self._triggers.run,
        }
        self._tasks = Background(self._background)

    @property
    def reads(self) -> int:
        """Pages read from Flue's tables."""
        return self._tables.reads

    @property
    def news(self) -> How:
        """The way in which news arrives at the moment."""
        return "triggers" if self._triggers.there and self._listens() else "polling"

    async def start(self) -> None:
        """Begins to receive news. Raises Unavailable."""
        await self._triggers.look()
        self._tasks.start()

    async def stop(self) -> None:
        await self._tasks.stop()

    def _sweep_interval(self) -> float:
        return self._settings.sweep_interval if self.news == "triggers" else self._settings.flue_poll_interval
