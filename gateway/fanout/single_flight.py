"""Reads of the log that several readers share, so that a page is read once for all that ask for it at one time."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from gateway.protocol.batch import Page
from gateway.tasks import wake

_T = TypeVar("_T")


class Read(Protocol):
    """A page for followers; one close to the tail begins up to `recent` bytes before the position."""

    async def __call__(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page: ...


class Shared(Generic[_T]):
    """A read, or other work for several readers, that has begun.

    A reader that leaves does not cancel it for the others. Its error goes to the readers that wait for it; without any
    it is dropped, and asyncio does not complain of it. However many wait for it, only a few go on in one turn of the
    loop.
    """

    def __init__(self, read: Coroutine[Any, Any, _T]) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self.task = asyncio.ensure_future(_told(read, self._waiting))
        self.task.add_done_callback(self._ended)

    async def result(self) -> _T:
        """The page, or whatever it is. Raises what the read raises."""
        await self.over()
        try:
            return self.task.result()
        finally:
            del self  # knows what the read failed with, which knows this frame: together they would be a ring

    async def over(self) -> None:
        """Waits until the read has ended, however it ends."""
        if not self.task.done():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting

    def _ended(self, task: asyncio.Task[_T]) -> None:
        if not task.cancelled():
            task.exception()
        _wake_all(self._waiting)  # of a task that was cancelled before it had begun


async def _told(read: Coroutine[Any, Any, _T], waiting: list[asyncio.Future[None]]) -> _T:
    """The result of the read. Those who wait are woken as it comes, and not a turn of the loop later."""
    try:
        return await read
    finally:
        _wake_all(waiting)


def _wake_all(waiting: list[asyncio.Future[None]]) -> None:
    while waiting:
        wake(waiting.pop(0))


class SharedReads:
    """Reads that are under way, by path and position. `joined` counts readers that were spared one of their own."""

    def __init__(self, read: Read, fresh: Read | None = None) -> None:
        self.joined = 0
        self._read = read
        self._fresh = fresh or read
        self._under_way: dict[tuple[str, int], Shared[Page]] = {}

    async def __call__(self, path: str, position: int, *, fresh: bool = False) -> Page:
        """The page after `position`. Raises what the read raises.

        `fresh`: by a read of its own, and never by one that began before this call, since that may not see what the
        caller looks for.
        """
        key = (path, position)
        read = self._under_way.get(key)
        if read is None or fresh or read.task.done():
            read = self._under_way[key] = Shared((self._fresh if fresh else self._read)(path, position))
            read.task.add_done_callback(partial(self._done, key, read))
        else:
            self.joined += 1
        try:
            return await read.result()
        finally:
            del read  # see Shared.result

    def forget(self) -> None:
        """Makes later readers begin reads of their own, instead of joining those under way."""
        self._under_way.clear()

    def _done(self, key: tuple[str, int], read: Shared[Page], _: asyncio.Task[Page]) -> None:
        if self._under_way.get(key) is read:
            del self._under_way[key]
