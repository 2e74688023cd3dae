"""News of what Flue writes: by triggers on its tables and LISTEN, or by polling what is followed here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Literal

from gateway.fanout.hub import Hub
from gateway.log.database import Database
from gateway.outage import Outage
from gateway.protocol.batch import News
from gateway.tasks import forever

logger = logging.getLogger("gateway.flue.news")

How = Literal["triggers", "polling"]

PREFIX: Final = "\x1f"
"""The prefix of paths in the triggers' notifications. No path of the gateway's own streams can begin so."""

ECHO: Final = 0.02  # seconds after news until a look for events that were committed beside it without notifying

FLOOR: Final = 0.25  # seconds between two such looks, which compare all that is followed here with the log

INTERVAL: Final = 5.0  # seconds between checks whether the triggers are still there
# Enabled, on the tables that the search path finds.
_THERE: Final = """
    SELECT count(*) = cardinality($1::text[])
      FROM unnest($1::text[], $2::text[]) AS named (trigger, on_table)
      JOIN pg_trigger t ON t.tgname = named.trigger AND t.tgrelid = to_regclass(named.on_table)
     WHERE t.tgenabled IN ('O', 'A')
"""
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


def one_line(body: bytes) -> bytes:
    """Events without line breaks, as an SSE frame needs them. Flue writes none, but JSON allows them between tokens."""
    return body.translate(_ONE_LINE) if b"\n" in body or b"\r" in body else body


class Notifications:
    """The news that triggers tell, for a hub of Flue's streams."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._look: asyncio.TimerHandle | None = None
        self._looked_at = float("-inf")

    def heard(self, news: News) -> None:
        """News of any stream: that of Flue's goes to their hub."""
        if news.path.startswith(PREFIX):
            body = news.body and one_line(news.body)
            self._hub.ring(replace(news, path=news.path[len(PREFIX) :], body=body))
            self._look_soon()

    def hinted(self, news: News) -> None:
        """Takes a hint, as triggers give it that do not know the secret channel: the tail is looked at soon."""
        if news.path.startswith(PREFIX):
            self._hub.hint(replace(news, path=news.path[len(PREFIX) :]))
            self._look_soon()

    def _look_soon(self) -> None:
        """Looks at all tails soon: of transactions that commit together, one notifies, and a look finds the others."""
        if self._look is None and self._hub.tails:
            loop = asyncio.get_running_loop()
            self._look = loop.call_at(max(loop.time() + ECHO, self._looked_at + FLOOR), self._look_now)

    def _look_now(self) -> None:
        self._look = None
        self._looked_at = asyncio.get_running_loop().time()
        self._hub.look_again()


class Triggers:
    """A watch on triggers: `there` is true while all are there that are named, with their tables. `on_change` is called
    when they have come or gone: all tails look again. `of`: what they tell of.
    """

    def __init__(self, database: Database, of: str, named: Mapping[str, str], *, on_change: Callable[[], None]) -> None:
        self.there = False
        self._database = database
        self._of = of
        self._named = named
        self._on_change = on_change
        self._outage = Outage(
            logger,
            "Whether Flue's tables have their triggers cannot be told (%r); the next look tries again.",
            "Whether Flue's tables have their triggers is known again.",
            within=database.away,
        )

    async def look(self) -> None:
        """Raises Unavailable."""
        async with self._database.acquire() as connection:
            there = bool(await connection.fetchval(_THERE, *map(list, (self._named, self._named.values()))))
        if there != self.there:
            self.there = there
            logger.info("News of Flue's %s arrives by %s.", self._of, "triggers" if there else "polling")
            self._on_change()

    async def run(self) -> None:
        """Looks again and again. Runs until cancelled."""
        await asyncio.sleep(INTERVAL)
        await forever("The look at Flue's triggers", self.look, lambda: INTERVAL, self._outage)
