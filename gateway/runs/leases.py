"""Ends runs whose leases have run out: once a second, one of all Machines looks for them in the database.

The database chooses it. The Machine that looked last is told to come again in a second, the others a little later, so
that they find nothing to do unless that one has died. No state is kept here: any Machine goes on where another stopped.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from gateway.outage import Outage
from gateway.protocol.batch import News
from gateway.protocol.target import shown
from gateway.runs.store import LeaseLook
from gateway.tasks import end, forever, kept

logger = logging.getLogger("gateway.runs.leases")

_MOST: Final = 500  # runs that one transaction ends
_RETRY: Final = 1.0  # seconds between looks while the database is away
_JITTER: Final = 0.1  # seconds, so that the other Machines do not all come at once


class EndLost(Protocol):
    """`Store.end_lost` of `gateway.runs.store`: the look itself."""

    def __call__(self, most: int, *, again: bool) -> Awaitable[LeaseLook]: ...


class LeaseWatch:
    """A Machine's looks. `on_end` is called with every run that one of them ends; `ended` counts those runs.

    `away`: the outage of the database.
    """

    def __init__(self, end_lost: EndLost, on_end: Callable[[News], None], away: Outage | None = None) -> None:
        self.ended = 0
        self._end_lost = end_lost
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None
        self._outage = Outage(logger, "Leases wait for the database (%r).", "Leases are looked at again.", within=away)

    def start(self) -> None:
        self._task = kept("leases", self._run)

    async def stop(self) -> None:
        await end(self._task)

    async def _run(self) -> None:
        await forever("The look at leases", self._look, lambda: _RETRY + random.uniform(0, _JITTER), self._outage)

    async def _look(self) -> float:
        """Ends all runs that are due. Returns the seconds until the next look."""
        again = False
        while True:
            look = await self._end_lost(_MOST, again=again)
            for news in look.ended:
                logger.warning(
                    "Run %s was ended: its producer gave no sign of life within its lease.", shown(news.path)
                )
                self.ended += 1
                self._on_end(news)
            if not look.more:
                return look.wait + random.uniform(0, _JITTER)
            again = True
