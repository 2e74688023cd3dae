"""Ends runs of Flue's whose server is gone, so that their readers end too: run_gateway.flue_end_silent, now and then.

Every Machine looks; the database lets one at a time. A followed run whose record has ended is closed as well: its
server has lost the database just before. Nothing is known here but how long a silence is too long.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from typing import Final

from gateway.log.database import Database
from gateway.outage import Outage
from gateway.tasks import forever

logger = logging.getLogger("gateway.flue.orphans")

_SHARE: Final = 0.25  # of the silence: how exactly it is kept
_INTERVAL: Final = 15.0  # seconds between looks, at most
_MOST: Final = 500  # runs that one transaction ends


class Orphans:
    """Looks for runs without a new event for `silence` seconds. `on_end` is called with the paths of those that were
    ended.

    `followed` gives the paths of the streams that are followed on this Machine.
    """

    def __init__(
        self,
        database: Database,
        *,
        silence: float,
        followed: Callable[[], Iterable[str]],
        on_end: Callable[[Iterable[str]], None],
    ) -> None:
        self.ended = 0
        self._database = database
        self._silence = silence
        self._followed = followed
        self._on_end = on_end
        self._outage = Outage(
            logger,
            "Runs without a server could not be looked for (%r).",
            "Runs without a server are looked for again.",
            within=database.away,
        )

    async def look(self) -> list[str]:
        """The ids of the runs that it has ended. Raises Unavailable."""
        followed = [path.removeprefix("runs/") for path in self._followed()]
        async with self._database.acquire() as connection:
            ended: list[str] = await connection.fetchval(
                "SELECT run_gateway.flue_end_silent($1, $2, $3)", self._silence, _MOST, followed
            )
        for run in ended:
            logger.warning("Run %s of Flue's was ended: no event for %g s.", run, self._silence)
        self.ended += len(ended)
        if ended:
            self._on_end([f"runs/{run}" for run in ended])
        return ended

    async def run(self) -> None:
        """Looks again and again. Runs until cancelled."""
        interval = min(self._silence * _SHARE, _INTERVAL)
        await asyncio.sleep(interval * random.uniform(0.75, 1.25))
        await forever(
            "The look at lost runs of Flue", self._step, lambda: interval * random.uniform(0.75, 1.25), self._outage
        )

    async def _step(self) -> None:
        await self.look()
