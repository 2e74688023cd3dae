"""Inherits the conversations of an ended life: one Machine frees them, and goes on with those that were busy, where
their rows say how.

An ended life has one heir at a time, by a row in the database; if the heir ends before it is done, another Machine is
the heir. So a life whose end no Machine saw is inherited, too.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final

from gateway.owner.lives import Lives
from gateway.owner.rows import PAGE, Work
from gateway.owner.store import Held, Store
from gateway.protocol.errors import ProtocolError

logger = logging.getLogger("gateway.owner")

Recorded = Callable[[Sequence[bytes]], Awaitable[Collection[bytes]]]

FAULTS: Final = 3  # in a row of tries, until the application has time to come to itself


async def nothing_recorded(_: Sequence[bytes]) -> Collection[bytes]:
    """Stands in for the relay where there is none: no recording has to go on."""
    return ()


class Inheriting:
    """The inheriting of lives. `work`: what tells of the work of a row's conversations, by the row's name. `recorded`:
    of these conversations, those that need an owner so that a recording of theirs goes on. Raises ProtocolError.
    """

    def __init__(self, lives: Lives, store: Store, work: Mapping[str, Work], recorded: Recorded) -> None:
        self.revived = 0
        self._recorded = recorded
        self._lives = lives
        self._store = store
        self._work = work
        self._pending: list[tuple[str, list[bytes]]] = []  # adopted, and not told to the application yet

    async def __call__(self) -> None:
        """Settles what has ended, life by life. Raises ProtocolError, and is to be called again: what the application
        could not go on with yet is tried anew.
        """
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
        working = set[bytes]() if work is None else set(await work.busy(list({held.id for held in those})))
        recorded = await self._recorded([held.digest for held in those])
        busy = [held for held in those if held.id in working or held.digest in recorded]
        if busy:
            got = await self._store.adopt([held.digest for held in busy], dead, heir)
            if work is not None:
                self._pending.append((name, [each.id for each in busy if each.id in working and each.digest in got]))
        await self._store.give_back([held.digest for held in those], dead)
        await self._revive()

    async def _revive(self) -> None:
        faults = 0
        for _ in range(len(self._pending)):
            name, ids = self._pending[0]
            try:
                await self._work[name].revive(ids)
            except ProtocolError:  # one by one from now on, and behind the others: one that fails keeps none of them
                self._pending = self._pending[1:] + [(name, [id]) for id in ids]
                faults += 1
                if faults == FAULTS:
                    return
                continue
            self._pending.pop(0)
            self.revived += len(ids)
            logger.info(
                "%d conversations of %s go on at this Machine: the one that owned them has ended.", len(ids), name
            )
