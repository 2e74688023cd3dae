"""Requests under way, by conversation: writes keep it from being given away, reads are moved with it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeVar

from gateway.owner.shared import Alone

HELD: Final = 0.02
"""Seconds between two looks whether another worker has given a conversation away."""

_K = TypeVar("_K")

Cut = asyncio.Future[None]
"""Done: the request it belongs to is to be left."""


class UnderWay:
    """Requests by their conversation's digest, and by the life by which they are answered; None: nobody's."""

    def __init__(self, shared: Alone) -> None:
        self._shared = shared
        self.writes = Counter[bytes]()
        self.giving: dict[bytes, asyncio.Event] = {}  # what is being given away here
        self.reads: dict[bytes, set[Cut]] = {}  # at the local application
        self._lives: dict[int | None, set[Cut]] = {}

    @asynccontextmanager
    async def writing(self, digest: bytes) -> AsyncIterator[None]:
        """A write that may reach the local application. Waits while the conversation is being given away."""
        await self.hold(digest)
        try:
            yield
        finally:
            self.release(digest)

    async def hold(self, digest: bytes) -> None:
        """Begins a write, which `release` ends. Waits while the conversation is being given away."""
        while digest not in self.writes:
            event = self.giving.get(digest)
            if event is not None:
                await event.wait()
            elif self._shared.hold(digest):
                break
            else:
                await asyncio.sleep(HELD)  # no worker tells another
        self.writes[digest] += 1

    def release(self, digest: bytes) -> None:
        """Ends a write."""
        self.writes[digest] -= 1
        if not self.writes[digest]:
            del self.writes[digest]
            self._shared.release(digest)

    def keep(self, life: int, digest: bytes, lost: Callable[[], None]) -> Callable[[], None]:
        """Counts one write more beside one that is under way, until what is returned is called. `lost`: see `end`."""
        self.writes[digest] += 1
        end: Cut = asyncio.get_running_loop().create_future()
        end.add_done_callback(lambda _: None if end.cancelled() else lost())
        _add(self._lives, life, end)

        def let_go() -> None:
            if _discard(self._lives, life, end):
                end.cancel()
            self.release(digest)

        return let_go

    @contextmanager
    def answering(self, life: int | None, digest: bytes | None) -> Iterator[Cut]:
        """A request that is answered by this life. `digest`: of a read at the local application."""
        cut: Cut = asyncio.get_running_loop().create_future()
        _add(self._lives, life, cut)
        if digest is not None:
            _add(self.reads, digest, cut)
        try:
            yield cut
        finally:
            _discard(self._lives, life, cut)
            if digest is not None:
                _discard(self.reads, digest, cut)

    def end(self, life: int) -> None:
        """Leaves what this life answers, and calls `lost` of all that is kept by it."""
        _leave(self._lives.pop(life, set()))

    def move(self, digest: bytes) -> None:
        """Leaves the reads of a conversation at the local application."""
        _leave(self.reads.pop(digest, set()))


def _add(those: dict[_K, set[Cut]], key: _K, cut: Cut) -> None:
    those.setdefault(key, set()).add(cut)


def _discard(those: dict[_K, set[Cut]], key: _K, cut: Cut) -> bool:
    """Whether it was there still."""
    found = those.get(key)
    if found is None or cut not in found:
        return False
    found.discard(cut)
    if not found:
        del those[key]
    return True


def _leave(cuts: set[Cut]) -> None:
    for cut in cuts:
        if not cut.done():
            cut.set_result(None)
