"""Reads of the log that several readers share, so that a page is read once for all that ask for it at one time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from gateway.protocol.batch import Page


class Read(Protocol):
    """A page for followers; one close to the tail begins up to `recent` bytes before the position."""

    async def __call__(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page: ...


def shared(read: Coroutine[Any, Any, Page]) -> asyncio.Task[Page]:
    """Starts a read. Await it shielded, so that a reader that leaves does not cancel it for the others.

    Its error goes to the readers that wait for it; without any it is dropped, and asyncio does not complain of it.
    """
    task = asyncio.ensure_future(read)
    task.add_done_callback(_retrieve)
    return task


def _retrieve(task: asyncio.Task[Page]) -> None:
    if not task.cancelled():
        task.exception()


class SharedReads:
    """Reads that are under way, by path and position. `joined` counts readers that were spared one of their own."""

    def __init__(self, read: Read) -> None:
        self.joined = 0
        self._read = read
        self._under_way: dict[tuple[str, int], asyncio.Task[Page]] = {}

    async def __call__(self, path: str, position: int, *, fresh: bool = False) -> Page:
        """The page after `position`. Raises what the read raises.

        `fresh`: never by a read that began before this call, since that may not see what the caller looks for.
        """
        key = (path, position)
        task = self._under_way.get(key)
        if task is None or fresh:
            task = self._under_way[key] = shared(self._read(path, position))
            task.add_done_callback(lambda done: self._ended(key, done))
        else:
            self.joined += 1
        return await asyncio.shield(task)

    def forget(self) -> None:
        """Makes later readers begin reads of their own, instead of joining those under way."""
        self._under_way.clear()

    def _ended(self, key: tuple[str, int], task: asyncio.Task[Page]) -> None:
        if self._under_way.get(key) is task:
            del self._under_way[key]
