"""What `bridge_app` asks of the store behind it: append, read a page, follow. Ids of events grow in their run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

Id = tuple[int, int]
Events = Sequence[tuple[Id, bytes]]

START: Id = (0, 0)


class Gone(Exception):
    """The store does not answer. Its readers are ended, so that they come back; a writer is answered 503."""


class Store(Protocol):
    """All methods raise Gone."""

    async def append(self, run: str, events: Sequence[bytes], name: str | None) -> None:
        """Returns when the store has acknowledged them. By its name a store that can tells a repeated append."""

    async def last(self, run: str) -> Id:
        """The id of the last event, START if there is none."""

    async def page(self, run: str, after: Id, count: int) -> Events:
        """The first events after an id, at most so many."""

    def follow(self, run: str, after: Id) -> AsyncIterator[Events]:
        """What comes after an id, as it comes, without an end."""
