"""Turns, where only so many may be at something at once: they go round by tenant (law 11).

With one line for all, every tenant would wait for as many requests as one of them sends. Work that may keep the
database busy for long (lists that search, patterns that are linked to very many streams) has few turns and takes its
time: behind work that took long, its turn rests, so that most of the database's time is left to appends and reads.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

SHORT: Final = 0.02  # seconds; long work that took no longer is not rested from
REST: Final = 2.0  # times as long as the work took
LONGEST: Final = 0.5  # seconds of rest, at most

Line = OrderedDict[asyncio.Future[None], None]


class Turns:
    """At most `most` turns are taken at once. Each tenant's requests wait in a line of its own, as they came."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._lines: OrderedDict[str, Line] = OrderedDict()  # the next turn is the first line's; nobody's is empty

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return sum(map(len, self._lines.values()))

    @property
    def awaited(self) -> bool:
        """True while requests wait for a turn: one that is given back goes to them."""
        return bool(self._lines)

    @property
    def free(self) -> int:
        """The number of turns that are free."""
        return self._free

    async def take(self, tenant: str) -> None:
        """Returns when it is this tenant's turn. The caller has to give it back."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, OrderedDict())[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(tenant, turn)
            else:
                self.give_back()  # it came as its request was cancelled
            raise

    def give_back(self) -> None:
        """Ends a turn, which goes to the request that has waited longest of the tenant that is next."""
        while self._lines:
            tenant, line = self._lines.popitem(last=False)
            turn, _ = line.popitem(last=False)
            if line:
                self._lines[tenant] = line  # behind all others
            if not turn.done():  # the request that waited for it was not cancelled
                turn.set_result(None)
                return
        self._free += 1

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        line = self._lines.get(tenant)
        if line is not None and turn in line:
            del line[turn]
            if not line:
                del self._lines[tenant]


class LongWork:
    """At most `most` pieces of long work at once."""

    def __init__(self, most: int) -> None:
        self._turns = Turns(most)

    @property
    def waiting(self) -> int:
        """The pieces of work that wait for their turn."""
        return self._turns.waiting

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Lasts for one piece of work of a tenant's. The caller does not wait while the turn rests."""
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
