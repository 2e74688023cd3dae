"""What an ended life has left: one Machine frees it, and goes on with what was busy, where the rows say how.

An ended life has one heir at a time, by a row in the database; if that ends before it is done, another one is. So it
comes to what no Machine saw end, too.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from gateway.owner.lives import Lives
from gateway.owner.rows import PAGE, Work
from gateway.owner.store import Held, Store

logger = logging.getLogger("gateway.owner")


class Inheriting:
    """`work`: what is known of rows' work, by their names."""

    def __init__(self, lives: Lives, store: Store, work: Mapping[str, Work]) -> None:
        self.revived = 0
        self._lives = lives
        self._store = store
        self._work = work
        self._pending: list[tuple[str, list[bytes]]] = []  # adopted, and not told to the application yet

    async def __call__(self) -> None:
        """Settles what has ended, life by life. Raises ProtocolError, and may be called again."""
        await self._revive()
        while self._lives.can_take and (heir := self._lives.life) is not None:
            dead = await self._store.inherit(heir)
            if dead is None:
                return
            await self._settle(dead, heir)

    async def _settle(self, dead: int, heir: int) -> None:
        while page := await self._store.page(dead, b"", PAGE):
            for name in {held.row for held in page}:
                await self._settle_row(name, [held for held in page if held.row == name], dead, heir)
        await self._store.settle(dead, heir)

    async def _settle_row(self, name: str, those: Sequence[Held], dead: int, heir: int) -> None:
        work = self._work.get(name)
        if work is not None:
            ids = {held.id: held.digest for held in those}
            busy = [id for id in await work.busy(list(ids)) if id in ids]
            if busy:
                got = await self._store.adopt([ids[id] for id in busy], dead, heir)
                self._pending.append((name, [id for id in busy if ids[id] in got]))
        await self._store.give_back([held.digest for held in those], dead)
        await self._revive()

    async def _revive(self) -> None:
        while self._pending:
            name, ids = self._pending[0]
            await self._work[name].revive(ids)
            self._pending.pop(0)
            self.revived += len(ids)
            logger.info("Of a Machine that ended, this one goes on with %d conversations of %s.", len(ids), name)
