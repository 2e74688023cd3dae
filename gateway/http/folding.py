"""Turns for folding events, which takes several times the memory of the events while it lasts.

Few folds are made at a time, and fewer of one tenant, so that a tenant whose folds wait for the log does not keep
others from theirs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from gateway.log.turns import Turns
from gateway.protocol.batch import Batch, Encoding
from gateway.protocol.errors import TooManyReads
from gateway.protocol.fold import Fold, fold_in_pieces
from gateway.protocol.target import tenant_of
from gateway.tasks import LITTLE, in_turns

MOST: Final = 4  # folds of a page at a time, the reading of the page included
EACH: Final = 2  # of them, those of one tenant
LIVE: Final = 16  # folds at a time for those who follow, whose pages are small
PATIENCE: Final = 10.0  # seconds that a fold of a page waits for its turn


class Folding:
    """Folds, a few at a time."""

    def __init__(self) -> None:
        self._all = Turns(MOST)
        self._tenants: WeakValueDictionary[str, Turns] = WeakValueDictionary()
        self._live = Turns(LIVE)

    @asynccontextmanager
    async def turn(self, path: str) -> AsyncIterator[None]:
        """Lasts for one fold of a page of this stream: from before the page is read, so that who waits holds none,
        until it has been given to the connection. Raises TooManyReads.
        """
        tenant = tenant_of(path)
        own = self._tenants.setdefault(tenant, Turns(EACH))
        try:
            async with asyncio.timeout(PATIENCE):
                await own.take(tenant)
                try:
                    await self._all.take(tenant)
                except asyncio.CancelledError:
                    own.give_back()
                    raise
        except TimeoutError:
            raise TooManyReads from None
        try:
            yield
        finally:
            self._all.give_back()
            own.give_back()

    async def live(self, fold: Fold, path: str, encoding: Encoding, batch: Batch) -> Batch:
        """A batch as one who follows the stream asks for it. Raises InvalidRequest."""
        if len(batch.body) <= LITTLE:
            return await folded(fold, encoding, batch)
        await self._live.take(tenant_of(path))
        try:
            return await folded(fold, encoding, batch)
        finally:
            self._live.give_back()


async def folded(fold: Fold, encoding: Encoding, batch: Batch) -> Batch:
    """A batch as a reader asks for it. Raises InvalidRequest."""
    return await in_turns(fold_in_pieces(fold, encoding, batch), len(batch.body))
