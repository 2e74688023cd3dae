"""Clients that may not be disturbed for a moment, and a disturbance that lets them come to an end first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Calm:
    """Many may keep it at once, or one may have ended it."""

    def __init__(self) -> None:
        self._keepers = 0
        self._ended = False
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Waits while it is ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._ended)
            self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            await self._tell()

    @asynccontextmanager
    async def ended(self) -> AsyncIterator[None]:
        """Waits for all who keep it; nobody does until the block is left."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._ended)
            self._ended = True
            await self._changed.wait_for(lambda: not self._keepers)
        try:
            yield
        finally:
            self._ended = False
            await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
