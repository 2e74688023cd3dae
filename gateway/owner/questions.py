"""Questions who has a key that are under way: of many who ask the same at once, one asks the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from gateway.owner.known import Known
from gateway.owner.rules import Owned

Ask = Callable[[], Coroutine[None, None, Owned | None]]


class Questions:
    """What they find out is noted in `known`, unless it was doubted before it came."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self._under_way: dict[bytes, dict[int | None, asyncio.Task[Owned | None]]] = {}

    async def __call__(self, digest: bytes, taker: int | None, ask: Ask) -> Owned | None:
        """Asks, or waits for the answer of who asks already. `taker`: the life that is to have it; None: nobody.

        Raises what `ask` raises.
        """
        those = self._under_way.setdefault(digest, {})
        task = those.get(taker)
        if task is None:
            task = those[taker] = asyncio.create_task(ask(), name="owner: a question")
            task.add_done_callback(lambda done: self._answered(digest, taker, done))
        return await asyncio.shield(task)

    def doubt(self, digest: bytes) -> None:
        """Nobody waits for answers any more that are on their way."""
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
