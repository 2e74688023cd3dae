"""The comparison of tails with the log: of all of them at each sweep, and of some where a hint tells of a change.

A lost notification makes readers late, and never wrong (law 2): whatever news has not brought, the next sweep finds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Final

from gateway.fanout.tail import Tail
from gateway.outage import Outage, SeldomLogger
from gateway.protocol.errors import ProtocolError
from gateway.tasks import end

logger = logging.getLogger("gateway.fanout.comparison")
seldom_logger: Final = SeldomLogger(logger)

HINT_PAUSE: Final = 0.02  # seconds between two comparisons because of hints
COMPARED: Final = 1_000  # tails of which the log is asked at one time

Positions = Callable[[Iterable[str]], Awaitable[dict[str, tuple[int, int, bool]]]]
"""Id, tail and closed of those of the paths at which there is a stream."""


class Comparison:
    """Compares tails with the log's `positions`.

    `behind` is called with a tail and the position to which the log goes on, `replaced` with one whose path has another
    stream by now, or whose log has gone back.
    """

    def __init__(
        self,
        positions: Positions,
        *,
        behind: Callable[[Tail, int], None],
        replaced: Callable[[Tail], None],
        outage: Outage,
    ) -> None:
        self.missed = 0  # tails that a sweep found behind, of which no news had told
        self._positions = positions
        self._behind = behind
        self._replaced = replaced
        self._outage = outage
        self._hinted: set[Tail] = set()
        self._looking: asyncio.Task[None] | None = None

    async def sweep(self, tails: Iterable[Tail]) -> None:
        """Compares all tails that have a position. Raises Unavailable."""
        known = [tail for tail in tails if tail.position is not None]  # of closed ones there are few
        if not known:
            return
        doubted = [tail for tail in known if tail.doubted]
        self.missed += await self._compare(known)
        for tail in doubted:
            tail.doubted = False  # of one that was dropped it does not matter

    def hint(self, tail: Tail) -> None:
        """Compares a tail soon. However many hints come, one question is under way at a time, for all tails."""
        self._hinted.add(tail)
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._look())

    async def stop(self) -> None:
        await end(self._looking)

    async def _look(self) -> None:
        try:
            while self._hinted:
                hinted = {tail for tail in self._hinted if tail.users and not tail.ended}
                self._hinted = {tail for tail in hinted if tail.position is None}  # as long as it is being read
                if hinted := hinted - self._hinted:
                    await self._compare(hinted)
                await asyncio.sleep(HINT_PAUSE)
        except ProtocolError as error:
            self._outage.begin(error.__cause__)  # the next sweep finds it
        except Exception:
            seldom_logger.exception("Looking into hints failed; the next sweep compares all streams with the log.")
        finally:
            self._looking = None

    async def _compare(self, tails: Collection[Tail]) -> int:
        """Compares tails. Returns how many were behind without a read under way. Raises Unavailable.

        It asks for COMPARED of them at a time, so that neither the answer nor what is done with it holds the loop.
        """
        some = iter(tails)
        behind = 0
        while asked := list(islice(some, COMPARED)):
            behind += await self._compare_some(asked)
        return behind

    async def _compare_some(self, tails: Sequence[Tail]) -> int:
        before = [(tail, tail.position or 0, tail.closed) for tail in tails]
        known = await self._positions([tail.path for tail in tails])
        self._outage.end()
        behind = 0
        for tail, position, was_closed in before:
            assert tail.stream is not None and tail.position is not None
            id, last, closed = known.get(tail.path, (None, 0, False))
            if id != tail.stream.id or last < position or (was_closed and not closed):
                self._replaced(tail)
            elif last > tail.position or (closed and not tail.closed):
                behind += not tail.filling
                self._behind(tail, last)
        return behind
