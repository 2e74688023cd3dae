"""Parts that begin and end with a Machine: the order in which they do, and what ends where one of them fails.

It knows no part: `app.py` has the list of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from typing import NamedTuple

from gateway.tasks import end, kept, together

Step = Callable[[], Awaitable[None] | None]


class Part(NamedTuple):
    """A part. `start`: None, where it has nothing to begin with. `stop` is called whatever has become of `start`."""

    start: Step | None
    stop: Step


@asynccontextmanager
async def lifetime(stages: Iterable[Sequence[Part]]) -> AsyncIterator[None]:
    """The parts live while the block runs: they start stage by stage, those of one stage at the same time, and stop in
    reverse.

    Raises what a part raises. One that fails to start has itself stopped, and all that came before it; one that fails
    to stop keeps no other from it.
    """
    async with AsyncExitStack() as stack:
        for stage in stages:
            for part in stage:
                stack.push_async_callback(_done, part.stop)
            starts = [_done(part.start) for part in stage if part.start is not None]
            if starts:
                await together(*starts)
        yield


async def _done(step: Step) -> None:
    doing = step()
    if isawaitable(doing):
        await doing


class Background:
    """Tasks that run from `start` to `stop`, by name: each is begun again if it ends (`gateway.tasks.kept`)."""

    def __init__(self, runs: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self._runs = runs
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [kept(name, run) for name, run in self._runs.items()]

    async def stop(self) -> None:
        await end(*self._tasks)
