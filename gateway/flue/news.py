"""News of Flue's runs: by triggers on its tables and LISTEN, or by polling the runs that are followed here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Literal

from gateway.log.database import Database
from gateway.outage import Outage
from gateway.tasks import forever

logger = logging.getLogger("gateway.flue.news")

How = Literal["triggers", "polling"]

PREFIX: Final = "\x1f"
"""What a path begins with in the triggers' notifications. No path of the gateway's own streams can begin so."""

INTERVAL: Final = 5.0  # seconds between checks whether the triggers are still there
# Both, enabled, on the tables that the search path finds.
_THERE: Final = """
    SELECT count(*) = 2 FROM pg_trigger
     WHERE (tgrelid, tgname) IN ((to_regclass('flue_event_stream_entries'), 'run_gateway_event'),
                                 (to_regclass('flue_event_streams'), 'run_gateway_closed'))
       AND tgenabled IN ('O', 'A')
"""


class Triggers:
    """A watch on the triggers: `there` is true while they are. `on_change` is called when they have come or gone: all
    tails look again.
    """

    def __init__(self, database: Database, *, on_change: Callable[[], None]) -> None:
        self.there = False
        self._database = database
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
            there = bool(await connection.fetchval(_THERE))
        if there != self.there:
            self.there = there
            logger.info("News of Flue's runs arrives by %s.", "triggers" if there else "polling")
            self._on_change()

    async def run(self) -> None:
        """Looks again and again. Runs until cancelled."""
        await asyncio.sleep(INTERVAL)
        await forever("The look at Flue's triggers", self.look, lambda: INTERVAL, self._outage)
