"""Announcements of new runs to other Machines, at which readers may follow a list.

Events and ends notify by themselves; a creation does not, so other Machines would show new runs at their next sweep
only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.outage import SeldomLogger
from gateway.protocol.errors import ProtocolError
from gateway.tasks import end

logger = logging.getLogger("gateway.runs.announcements")
seldom_logger: Final = SeldomLogger(logger)

MOST: Final = 1_000  # runs that are announced together; those beyond are found by a sweep


class Announcements:
    """Announces runs that this Machine has made, by `tell`.

    `machine`: this Machine's name, as others are to read it; None: no other Machine has to be told.
    """

    def __init__(self, tell: Callable[[str, Sequence[str]], Awaitable[None]]) -> None:
        self.machine: Callable[[], str | None] = lambda: None
        self._tell = tell
        self._made: list[str] = []
        self._telling: asyncio.Task[None] | None = None

    def announce(self, run: str) -> None:
        """Announces a run, without waiting: those that are made meanwhile are announced together."""
        if self.machine() is None or len(self._made) >= MOST:
            return
        self._made.append(run)
        if self._telling is None:
            self._telling = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            while self._made and (machine := self.machine()) is not None:
                made, self._made = self._made, []
                await self._tell(machine, made)
        except ProtocolError as error:
            logger.info("Other Machines' lists show new runs by their next sweep: %r.", error)
        except Exception:
            seldom_logger.exception("Telling of new runs failed; other Machines' lists show them by their next sweep.")
        finally:
            self._made = []
            self._telling = None

    async def stop(self) -> None:
        await end(self._telling)
