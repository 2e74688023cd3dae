"""A reader whose handler waits for a bell. Streams and lists ring it, the connection that is full or has drained, and
the deadlines; what it is given then is for those who build on it to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, Self, TypeVar

from gateway.fanout.deadlines import Deadlines
from gateway.fanout.follower import Direct, Signal
from gateway.outage import SeldomLogger
from gateway.tasks import Bell

logger = logging.getLogger("gateway.fanout.waiting")
seldom_logger: Final = SeldomLogger(logger)

Given = TypeVar("Given")


class WaitingReader:
    """A reader with a place among the deadlines. Use as a context manager.

    `heartbeat`: seconds after which it is said that nothing has come. A connection that is not writable is given
    nothing until it has drained.
    """

    def __init__(self, deadlines: Deadlines, heartbeat: float, direct: Direct | None = None) -> None:
        self.slot = 0
        self._deadlines = deadlines
        self._heartbeat = heartbeat
        self._direct = direct
        self._bell = Bell()
        self._beaten = False
        self._over = direct is not None and direct.lost()
        if direct is not None:
            direct.follower = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        if self._direct is not None:
            self._direct.follower = None
        self._deadlines.unschedule(self, self.slot)

    def expire(self, after: float) -> None:
        """Schedules its end in `after` seconds, or within a second or so on a Machine that is draining."""
        self.slot = self._deadlines.schedule(self, self._deadlines.time_for(after))

    @property
    def writable(self) -> bool:
        """True if the connection takes more at once, as far as that is known."""
        return self._direct is None or self._direct.writable()

    async def _next(self, look: Callable[[], Awaitable[Given | None]]) -> Given | Signal:
        """Looks at each ring until there is something, and gives that; or a signal. Raises what `look` raises."""
        while not self._over:
            if self._direct is not None and not self.writable:
                await self._direct.drain()  # nothing is fetched for a reader that does not read (law 6)
                continue
            given = await look()
            if given is not None:
                return given
            if self._beaten or not await self._rung():
                self._beaten = False
                return Signal.HEARTBEAT
        return Signal.OVER

    async def _rung(self) -> bool:
        self._bell.clear()
        try:
            async with asyncio.timeout(self._heartbeat):
                await self._bell.wait()
        except TimeoutError:
            return False
        return not self._beaten

    def wake(self) -> None:
        """Has `next` look: there may be something new, or room for it."""
        self._bell.ring()

    def beat(self) -> None:
        """Makes `next` return a heartbeat."""
        self._beaten = True
        self._bell.ring()

    def end(self) -> None:
        """Ends the read: the Machine drains, the reader's time is up, or its client has gone."""
        self._over = True
        self._bell.ring()

    def fail(self) -> None:
        """Ends a reader one of whose parts raised: only its client knows what it has got. Never raises."""
        self.end()
        if self._direct is not None:
            try:
                self._direct.abort()
            except Exception:
                seldom_logger.exception("Ending a reader whose connection had failed raised as well.")
