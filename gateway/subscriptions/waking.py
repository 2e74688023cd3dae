"""Wakes subscriptions, all of a turn at once. Where another transaction holds the row of one, or of a
stream of wakes, no other subscription waits for it.

What is held is tried again in the background for some seconds. What is left after that, the next look finds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from gateway.outage import SeldomLogger
from gateway.protocol.errors import Unavailable
from gateway.subscriptions.store import Store
from gateway.tasks import end

logger = logging.getLogger("gateway.subscriptions.waking")
seldom_logger: Final = SeldomLogger(logger)

_PATIENCE: Final = 5.0  # seconds for what is held
_STEP_BACK: Final = 0.05, 0.25  # seconds between two tries, at least and at most


class Waking:
    """The wakes that a Machine makes. `ring` is called when some were made in the background."""

    def __init__(self, store: Store, ring: Callable[[], None]) -> None:
        self._store = store
        self._ring = ring
        self._held: dict[int, str | None] = {}  # subscription: the stream that gave it work
        self._waiting: asyncio.Task[None] | None = None

    async def wake(self, candidates: Sequence[tuple[int, str | None]]) -> bool:
        """Wakes those that are idle and have work. Returns whether there were any. Raises Unavailable."""
        woken = False
        due = dict(candidates)
        while due:
            outcome = await self._store.wake(due)
            woken |= outcome.woken > 0
            self._held |= {number: due[number] for number in outcome.held}
            due = {number: due[number] for number in outcome.late}
        if self._held and (self._waiting is None or self._waiting.done()):
            self._waiting = asyncio.create_task(self._wait(), name="waiting to wake subscriptions")
        return woken

    async def close(self) -> None:
        """Ends. Another Machine finds what is left."""
        await end(self._waiting)

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        try:
            while self._held and loop.time() < until:
                due, self._held = self._held, {}
                outcome = await self._store.wake(due, patient=True)
                left = [*outcome.held, *outcome.late]
                self._held = {number: due[number] for number in left} | self._held
                if outcome.woken:
                    self._ring()
                if len(left) == len(due):
                    await asyncio.sleep(random.uniform(*_STEP_BACK))
        except Unavailable:
            pass  # the next look finds them, and tells of the outage
        except Exception:
            seldom_logger.exception("Subscriptions could not be woken; the next look tries again.")
        finally:
            self._held.clear()
