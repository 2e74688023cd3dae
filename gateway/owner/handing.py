"""Hands over the conversations of a Machine that drains, each as soon as nothing is done for it.

While a conversation is handed over, writes to it wait: none may reach the application between the look whether it is
busy and the moment in which nobody owns it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from gateway.owner.lives import Lives
from gateway.owner.rows import PAGE, Work
from gateway.owner.store import Held, Store
from gateway.owner.under_way import UnderWay
from gateway.protocol.errors import ProtocolError

logger = logging.getLogger("gateway.owner")

PAUSE: Final = 0.25  # seconds between two rounds
_FIRST: Final = b""


class Handing:
    """Hands conversations over. `work`: what tells of the work of a row's conversations, by the row's name."""

    def __init__(self, lives: Lives, store: Store, under_way: UnderWay, work: Mapping[str, Work]) -> None:
        self.given = 0
        self._lives = lives
        self._store = store
        self._under_way = under_way
        self._work = work

    async def give_all(self, seconds: float) -> None:
        """Gives away all that this Machine owns, within so many seconds; what is left is freed when its life ends."""
        if not self._lives.shared.drain():
            return  # other workers go on with it
        left = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # also where the database says nothing
                while True:
                    with suppress(ProtocolError):
                        self._lives.hurry()
                        await self._lives.news(1.0)
                        left = await self._round()
                        if not left:
                            break
                    await asyncio.sleep(PAUSE)
        level = logging.WARNING if left else logging.INFO
        logger.log(level, "Of what this Machine owned, %d were given away, and %d were still busy.", self.given, left)

    async def _round(self) -> int:
        """Gives away what is idle. Returns how many are not. Raises ProtocolError."""
        left, after = 0, _FIRST
        while (life := self._lives.life) is not None and self._lives.told_of_drain:
            page = await self._store.page(life, after, PAGE)
            if not page:
                return left
            after = page[-1].digest
            left += await self._give(page, life)
        return left if self._lives.life is None else max(1, left)

    async def _give(self, page: Sequence[Held], life: int) -> int:
        """Gives away those that are idle. Returns how many are not."""
        with self._giving([held.digest for held in page]) as chosen:
            idle = await self._idle([held for held in page if held.digest in chosen])
            await self._store.give_back(idle, life)
        for digest in idle:
            self._under_way.move(digest)
        self.given += len(idle)
        return len(page) - len(idle)

    async def pass_on(self, digest: bytes, life: int, to: int) -> bool:
        """Gives a conversation of this life to another one, unless a request that writes is under way for it. Whether
        it has. Raises Unavailable.
        """
        with self._giving([digest]) as chosen:
            try:
                passed = bool(chosen) and await self._store.pass_on(digest, life, to)
            finally:
                self._lives.shared.pass_on()  # before anybody writes again
        if passed:
            self._under_way.move(digest)
        return passed

    @contextmanager
    def _giving(self, digests: Sequence[bytes]) -> Iterator[Collection[bytes]]:
        """The conversations among these to which no request writes; those that come while the block runs wait."""
        shared, writes, giving = self._lives.shared, self._under_way.writes, self._under_way.giving
        chosen = {each for each in digests if each not in writes and each not in giving and shared.seize(each)}
        event = asyncio.Event()
        giving.update((each, event) for each in chosen)
        try:
            yield chosen
        finally:
            for each in chosen:
                del giving[each]
                shared.release(each)
            event.set()

    async def _idle(self, page: Sequence[Held]) -> list[bytes]:
        idle: list[bytes] = []
        rows: dict[str, list[Held]] = {}
        for held in page:
            rows.setdefault(held.row, []).append(held)
        for name, those in rows.items():
            work = self._work.get(name)
            busy = set() if work is None else set(await work.busy([held.id for held in those]))
            idle += [held.digest for held in those if held.id not in busy]
        return idle
