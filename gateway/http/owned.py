"""The port to conversations that one Machine owns, for parts that go on beyond a request.

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
        """Keeps the conversation from being given away, as if it were being written to. `lost` is called when this
        Machine owns it no more. Returns the function that lets go of it.
        """
        ...

    def guard(self) -> Callable[[], None]:
        """Is called right before each write to the application: raises if that is too late."""
        ...


class Owners(Protocol):
    """The owners of conversations."""

    @property
    def life(self) -> int | None:
        """The life by which this Machine owns conversations; None: it owns none."""
        ...

    async def hold(self, key: bytes, lost: Callable[[], None]) -> tuple[Held, Callable[[], None]] | None:
        """Keeps a conversation that this Machine owns already, as `Held.keep` does. Waits while it is being given away.
        None: this Machine owns nothing.
        """
        ...
