"""An event loop in a thread of its own, for code that has none or whose own is busy, as in a notebook.

It is there as long as it is used: afterwards there is neither a task nor a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

_T = TypeVar("_T")


class Portal:
    """The way into the loop, from any other thread."""

    def __init__(self) -> None:
        self.users = 0
        self.loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="run_gateway", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        await self._stopped.wait()

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Does work in the loop, and waits for it. Raises what it raises."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a Ctrl-C here, or it has ended already
            raise

    def end(self) -> None:
        """Ends the loop and its thread."""
        self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()


_lock: Final = threading.Lock()
_shared: list[Portal] = []


@contextmanager
def portal() -> Iterator[Portal]:
    """The loop of this process, while the block runs."""
    with _lock:
        if not _shared:
            _shared.append(Portal())
        there = _shared[0]
        there.users += 1
    try:
        yield there
    finally:
        with _lock:
            there.users -= 1
            if not there.users:
                _shared.remove(there)
                there.end()
