"""The text of a scrape. What makes it is imported with the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.metrics.catalogue import Parts
from gateway.tasks import in_turns

if TYPE_CHECKING:
    from gateway.metrics.siblings import Siblings


class Exposition:
    """The text of a scrape: this process, and its siblings if it has any."""

    def __init__(self, parts: Parts, siblings: Siblings | None) -> None:
        self._parts = parts
        self._siblings = siblings

    async def open(self) -> None:
        """Begins to answer siblings that ask."""
        if self._siblings is not None:
            from gateway.metrics.collector import Machine, dump

            machine = Machine(self._parts)
            await self._siblings.open(lambda: dump(machine))

    async def close(self) -> None:
        if self._siblings is not None:
            await self._siblings.close()

    async def __call__(self, accept: str) -> tuple[bytes, str]:
        """Text and content type, for an `Accept` header."""
        from gateway.metrics.collector import Machine, merge, render

        machine = Machine(self._parts)
        if self._siblings is None:
            return await in_turns(render(machine, accept))
        others = await self._siblings.others()
        all = merge({str(self._siblings.number): machine.collect(), **others})
        return await in_turns(render(all, accept))
