"""Pages for plain reads: their bytes may come from memory, the state of their stream always comes from the log.

The events in a page never change, so many readers of one run cost one read of each page's bytes. A request may share a
query that has not begun, and never one under way: so it sees every append that was acknowledged before it came.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

from gateway.fanout.single_flight import Shared
from gateway.protocol.batch import Page

MOST_PAGES: Final = 512  # kept at once: for a small page, asking whether it is still valid costs as much as reading it

Key = tuple[str, int]


class Log(Protocol):
    """Reads the page after a position. `known`: an older page from there, whose bytes need not be sent again."""

    async def read(self, path: str, position: int, *, known: Page | None = None) -> Page: ...


class Pages:
    """The pages that were read last, as many as fit in `most` bytes. `joined` counts reads that shared a query."""

    def __init__(self, log: Log, most: int) -> None:
        self.bytes = 0
        self.joined = 0
        self._log = log
        self._most = most
        self._kept: OrderedDict[Key, Page] = OrderedDict()
        self._next: dict[Key, Shared[Page]] = {}  # queries that have not begun, which may be joined
        self._running: dict[Key, Shared[Page]] = {}

    async def read(self, path: str, position: int) -> Page:
        """The page after a position, as fresh as if it were read now. Raises what the read raises."""
        key = (path, position)
        look = self._next.get(key)
        if look is None:
            look = self._next[key] = Shared(self._look(key))
        else:
            self.joined += 1
        try:
            return await look.result()
        finally:
            del look  # see Shared.result

    async def _look(self, key: Key) -> Page:
        running = self._running.get(key)
        if running is not None:
            await running.over()
        read = self._running[key] = self._next.pop(key)  # from here on it is too late to join
        try:
            page = await self._log.read(*key, known=self._kept.get(key))
        finally:
            if self._running[key] is read:
                del self._running[key]
            del read
        self._keep(key, page)
        return page

    def _keep(self, key: Key, page: Page) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self.bytes -= len(old.batch.body)
        if self._most // MOST_PAGES <= len(page.batch.body) <= self._most // 2:
            self._kept[key] = page
            self.bytes += len(page.batch.body)
        while self.bytes > self._most:
            self.bytes -= len(self._kept.popitem(last=False)[1].batch.body)
