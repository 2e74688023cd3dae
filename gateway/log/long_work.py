"""Work that may keep the database busy for long: lists that search, patterns that are linked to very many streams.

It has few places, which go round by tenant, and takes its time: a place whose work took long rests before it is given
on, so that most of the database's time is left to appends and reads, however much of such work is asked for (law 11).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from gateway.log.turns import Turns

SHORT: Final = 0.02  # seconds; work that took no longer is not rested from
REST: Final = 2.0  # times as long as the work took
LONGEST: Final = 0.5  # seconds of rest, at most


class LongWork:
    """At most `most` pieces of such work at once."""

    def __init__(self, most: int) -> None:
        self._turns = Turns(most)

    @property
    def waiting(self) -> int:
        """The pieces of work that wait for their turn."""
        return self._turns.waiting

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Lasts for one piece of work of a tenant's. Whoever did it does not wait for the rest."""
        await self._turns.take(tenant)
        began = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - began
            if took <= SHORT:
                self._turns.give_back()
            else:
                asyncio.get_running_loop().call_later(min(REST * took, LONGEST), self._turns.give_back)
