"""A writer and readers of all modes around gateways in this process, while something happens to them.

`async with traffic(urls) as scene:` does it; when the block has ended the writer goes on for a little, and closes.
Every reader must then have been given exactly the log: nothing lost, repeated, reordered, or ended early.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.servers import Running, serving
from tests.traffic import MODES, Reader, Writer

PATH = "/runs/run-1"


@asynccontextmanager
async def gateway(database_url: str, **settings: Any) -> AsyncIterator[Running]:
    """A gateway in a thread of its own; its start and its end do not hold up the tools of the test."""
    context = serving(database_url, "direct", **settings)
    running = await asyncio.to_thread(context.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


class Scene:
    """What is going on. `writer.acknowledged` and each reader's `given` grow."""

    def __init__(self, writer: Writer, readers: list[Reader]) -> None:
        self.writer = writer
        self.readers = readers

    async def goes_on(self, events: int = 10) -> None:
        """Returns once so many more events have been acknowledged, and every reader was given them."""
        goal = self.writer.acknowledged + events
        for reader in self.readers:
            await reader.reached(goal)


@asynccontextmanager
async def traffic(
    write_to: Sequence[str], read_from: Sequence[str] | None = None, *, pause: float = 0.01, patience: float = 40
) -> AsyncIterator[Scene]:
    """Until the block ends, and for a few events more."""
    writer = Writer(PATH, write_to)
    await writer.create()
    readers = [Reader(mode, PATH, read_from or write_to, patience) for mode in MODES]
    enough = asyncio.Event()

    async def write() -> None:
        while not enough.is_set():
            await writer.write(5, pause=pause, close=False)
        await writer.write(5)

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(write())
        for reader in readers:
            tasks.create_task(reader.run())
        scene = Scene(writer, readers)
        await scene.goes_on()
        yield scene
        enough.set()
        await writing
    for reader in readers:
        assert reader.given == list(range(1, writer.acknowledged + 1)), reader.mode
