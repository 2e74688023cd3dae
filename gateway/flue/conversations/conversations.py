"""The conversations of a Flue 2.x app, read on one Machine: made from the settings, and put in front of the way to the
app.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from gateway.fanout.hub import Hub
from gateway.flue.conversations.answered import Memory
from gateway.flue.conversations.readers import Readers
from gateway.flue.conversations.source import Source
from gateway.flue.news import How, Told, Triggers
from gateway.http.limits import Limits
from gateway.lifetime import Background
from gateway.log.database import Database
from gateway.settings import Settings

TRIGGERS: Final = {"run_gateway_batch": "flue_conversation_stream_batches"}


class Conversations:
    """Conversations of a Flue 2.x app, read on one Machine. `mounts`: where the app has its agents. `listens`: whether
    LISTEN works.
    """

    def __init__(
        self,
        settings: Settings,
        mounts: Sequence[str],
        database: Database,
        limits: Limits,
        listens: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._listens = listens
        self._source = Source(database)
        self._memory = Memory(time.monotonic)
        self.hub = Hub(
            read=self._source.live,
            positions=self._source.positions,
            touch=self._source.touch,
            now=time.time,
            clock=time.monotonic,
            heartbeat=settings.heartbeat,
            sweep_interval=self._sweep_interval,
            away=database.away,
        )
        self.told = Told(self.hub)
        self.readers = Readers(mounts, self._source, self.hub, limits, self._memory)
        self._triggers = Triggers(database, "conversations", TRIGGERS, on_change=self.hub.look_again)
        self._background = Background(
            {"timer of conversations' readers": self.hub.run, "look for Flue's triggers": self._triggers.run}
        )

    @property
    def reads(self) -> int:
        """Pages read from Flue's tables."""
        return self._source.reads

    @property
    def news(self) -> How:
        """The way in which news of conversations arrives at the moment."""
        return "triggers" if self._triggers.there and self._listens() else "polling"

    def forget(self) -> None:
        """The database is another one now."""
        self.hub.forget()
        self._source.forget()
        self._memory.forget()

    async def start(self) -> None:
        """Begins to receive news. Raises Unavailable."""
        await self._triggers.look()
        self._background.start()

    async def stop(self) -> None:
        await self._background.stop()

    def _sweep_interval(self) -> float:
        return self._settings.sweep_interval if self.news == "triggers" else self._settings.flue_poll_interval
