"""Moves each conversation to the Machine whose app runs it, where Flue has chosen another Machine than the owner.

Knows no HTTP and no SQL.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from gateway.owner.flue.processes import Running
from gateway.owner.rows import Key
from gateway.owner.rules import Owned


class Owners(Protocol):
    """The port to `gateway.owner.owner.Owner`. All methods raise Unavailable."""

    async def owners(self, keys: Sequence[Key]) -> Mapping[bytes, Owned]:
        """The owners of these conversations, by their digests."""
        ...

    async def take(self, key: Key) -> bool:
        """Takes a conversation for this Machine, unless another living one owns it."""
        ...

    async def pass_on(self, key: Key, to: int) -> bool:
        """Gives a conversation of this Machine to another life."""
        ...

    def doubt(self, key: Key) -> None:
        """Has the next request ask again who owns a conversation."""
        ...


class Following:
    """`running` says what is run where; `keys` which conversations of the table of owners that may be."""

    def __init__(
        self,
        running: Callable[[], Awaitable[list[Running]]],
        keys: Callable[[str, bytes], Sequence[Key]],
        owners: Owners,
    ) -> None:
        self.passed = 0
        self._running = running
        self._keys = keys
        self._owners = owners

    async def look(self, life: int) -> None:
        """Takes what this Machine, whose life this is, runs and nobody owns, and passes on what others run.

        Raises Unavailable.
        """
        running = await self._running()
        if not running:
            return
        found = [(each, key) for each in running for key in self._keys(each.agent, each.id.encode())]
        owners = await self._owners.owners([key for _, key in found])
        for each, key in found:
            owned = owners.get(key.digest)
            if owned is None and each.life == life:
                await self._owners.take(key)
            elif owned is not None and owned.life == life != each.life:
                self.passed += await self._owners.pass_on(key, each.life)
            elif each.life != life:
                self._owners.doubt(key)  # another worker may have passed it on
