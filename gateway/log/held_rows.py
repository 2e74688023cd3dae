"""Streams whose rows another transaction holds: the rows are asked for again and again, until they are free.

A transaction that was left idle may hold a row for hours. The other streams of a batch go on without that one, and no
connection waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from gateway.protocol.errors import Unavailable

logger = logging.getLogger("gateway.log.held_rows")

_LOOK: Final = 0.05  # seconds between looks


class HeldRows:
    """`waits` gives the paths that wait for their rows, `held` asks the log which of them still do, `free` is called
    with each that does not.
    """

    def __init__(
        self,
        *,
        waits: Callable[[], list[str]],
        held: Callable[[list[str]], Awaitable[Collection[str]]],
        free: Callable[[str], None],
    ) -> None:
        self._waits = waits
        self._held = held
        self._free = free
        self._looking: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Looks from now on, until nothing waits any more."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look(), name="held rows")

    async def _look(self) -> None:
        try:
            while self._waits():
                await asyncio.sleep(_LOOK)
                try:
                    await self._look_once()
                except Unavailable:
                    pass  # the next look asks again; the writer ends the wait in time
                except Exception:
                    logger.exception("Asking for rows that another transaction holds failed; it is tried again.")
        finally:
            self._looking = None

    async def _look_once(self) -> None:
        paths = self._waits()
        held = await self._held(paths)
        for path in paths:
            if path not in held:
                self._free(path)
