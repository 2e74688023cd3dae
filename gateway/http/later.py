"""Makes a part when it is first needed, since its imports take longer than all others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Later(Generic[_T]):
    """`make` is called once, in a thread: callers that need what it makes wait for it, and the loop goes on."""

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._made: _T | None = None
        self._making = Lock()

    async def __call__(self) -> _T:
        """The part, made by now at the latest. Raises what `make` raises, and then the next call tries again."""
        return self._made if self._made is not None else await asyncio.to_thread(self.now)

    def now(self) -> _T:
        """The part, for callers without a loop."""
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made
