"""Conversations of a Flue 2.x app as a part of a Machine, which stands in front of the way to the app."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from gateway.flue.conversations.answered import Memory
from gateway.flue.conversations.readers import Readers
from gateway.flue.conversations.source import Source
from gateway.flue.followed import FollowedTables
from gateway.http.limits import Limits
from gateway.log.database import Database
from gateway.settings import Settings

TRIGGERS: Final = {"run_gateway_batch": "flue_conversation_stream_batches"}


class Conversations(FollowedTables):
    """Conversations read on one Machine. `mounts`: where the app has its agents. `listens`: whether LISTEN works."""

    def __init__(
        self,
        settings: Settings,
        mounts: Sequence[str],
        database: Database,
        limits: Limits,
        listens: Callable[[], bool],
    ) -> None:
        self._source = Source(database)
        super().__init__(settings, database, self._source, of="conversations", triggers=TRIGGERS, listens=listens)
        self._memory = Memory(time.monotonic)
        self.readers = Readers(mounts, self._source, self.hub, limits, self._memory)

    def forget(self) -> None:
        """Forgets all conversations: the database is another one now."""
        self.hub.forget()
        self._source.forget()
        self._memory.forget()
