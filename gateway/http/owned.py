"""What has one owner among the Machines, as parts that go on beyond a request see it.

A recording writes to a conversation for as long as it lasts, whether or not its client is still there. So the owner is
asked to count it, and tells it when this Machine owns the conversation no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

HELD: Final = "run_gateway.held"
"""The key under which a scope may hold a Held: what its request writes to has one owner, which is this Machine."""


class Held(Protocol):
    """A conversation that this Machine owns. `key` names it in the database."""

    @property
    def key(self) -> bytes: ...

    def keep(self, lost: Callable[[], None]) -> Callable[[], None]:
        """Has the conversation count as being written to from now on, so that it is not given away. `lost` is called
        when this Machine owns it no more. Returns what lets go of it.
        """
        ...

    def guard(self) -> Callable[[], None]:
        """To be called right before something is written to the application for it: raises if that is too late."""
        ...


class Owners(Protocol):
    """Who owns what."""

    @property
    def life(self) -> int | None:
        """By which this Machine owns; None: it owns nothing."""
        ...

    async def hold(self, key: bytes, lost: Callable[[], None]) -> tuple[Held, Callable[[], None]] | None:
        """Keeps a conversation that this Machine owns already, as `Held.keep` does. Waits while it is being given away.
        None: this Machine owns nothing.
        """
        ...
