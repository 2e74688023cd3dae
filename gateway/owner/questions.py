"""Questions under way of who owns a key: of many requests that ask at once, one asks the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from gateway.owner.known import Known
from gateway.owner.rules import Owned

Ask = Callable[[], Coroutine[None, None, Owned | None]]


class Questions:
    """The questions under way. Answers are noted in `known`, except those that were doubted before they came."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._under_way: dict[bytes, dict[int | None, asyncio.Task[Owned | None]]] = {}

    async def __call__(self, digest: bytes, taker: int | None, ask: Ask) -> Owned | None:
        """Asks, or waits for the answer of a question under way. `taker`: the life that takes the key; None: none does.

        Raises what `ask` raises.
        """
        those = self._under_way.setdefault(digest, {})
        task = those.get(taker)
        if task is None:
            task = those[taker] = asyncio.create_task(ask(), name="owner: a question")
            task.add_done_callback(lambda done: self._answered(digest, taker, done))
        return await asyncio.shield(task)

    def doubt(self, digest: bytes) -> None:
        """Has the next request ask anew, and not wait for an answer that is on its way."""
        self._under_way.pop(digest, None)

    def doubt_all(self) -> None:
        self._under_way.clear()

    def _answered(self, digest: bytes, taker: int | None, task: asyncio.Task[Owned | None]) -> None:
        those = self._under_way.get(digest, {})
        believed = those.get(taker) is task
        if believed:
            del those[taker]
            if not those:
                del self._under_way[digest]
        if task.cancelled() or task.exception() is not None:
            return
        owned = task.result()
        if believed and owned is not None:
            self._known.note(digest, owned)
