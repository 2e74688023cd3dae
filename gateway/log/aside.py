"""Appends to streams whose rows somebody else holds: set aside, so that nobody waits behind them.

A transaction that was left idle may hold a stream's row for hours. The other streams of a batch go on without that one,
no lane waits for it, and its appends are refused in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final, Generic, TypeVar

from gateway.protocol.errors import Unavailable

_LOOK: Final = 0.05  # seconds between checks whether rows are free again

Entry = TypeVar("Entry")


class Aside(Generic[Entry]):
    """What waits for a row, by path.

    `held` asks the log which paths' rows are held. `free` is called when one may go on, `over` when it has waited for
    `patience` seconds.
    """

    def __init__(
        self,
        *,
        held: Callable[[list[str]], Awaitable[Collection[str]]],
        free: Callable[[str, Entry], None],
        over: Callable[[str, Entry], None],
        patience: float,
    ) -> None:
        self._held = held
        self._free = free
        self._over = over
        self._patience = patience
        self._entries: dict[str, Entry] = {}
        self._since: dict[str, float] = {}
        self._looking: asyncio.Task[None] | None = None

    def put(self, path: str, entry: Entry) -> None:
        """Sets an entry aside. One that was set aside before has waited since then, until `settled` says otherwise."""
        self._entries[path] = entry
        self._since.setdefault(path, asyncio.get_running_loop().time())
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())

    def settled(self, paths: Iterable[str]) -> None:
        """These have their outcome, except those that are aside: the next entry for such a path has not waited yet."""
        if self._since:
            for path in paths:
                if path not in self._entries:
                    self._since.pop(path, None)

    async def _look(self) -> None:
        try:
            while self._entries:
                await asyncio.sleep(_LOOK)
                await self._look_once(list(self._entries))
        finally:
            self._looking = None

    async def _look_once(self, paths: list[str]) -> None:
        try:
            held = await self._held(paths)
        except Unavailable:
            held = paths
        now = asyncio.get_running_loop().time()
        for path in paths:
            if path not in held:
                self._free(path, self._entries.pop(path))
            elif now - self._since[path] > self._patience:
                del self._since[path]
                self._over(path, self._entries.pop(path))
