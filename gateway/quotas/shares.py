"""Shares: a limit of what each holder may have open at one time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Share:
    """A limit of `limit` open at one time for each holder. Holders with nothing open are not remembered."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held: dict[str, int] = {}

    def full(self, holder: str) -> bool:
        """True if the holder has no room for one more."""
        return self.held.get(holder, 0) >= self.limit

    def take(self, holder: str) -> None:
        self.held[holder] = self.held.get(holder, 0) + 1

    def give_back(self, holder: str) -> None:
        left = self.held[holder] - 1
        if left:
            self.held[holder] = left
        else:
            del self.held[holder]

    @contextmanager
    def one(self, holder: str) -> Iterator[None]:
        """Holds one while the block runs."""
        self.take(holder)
        try:
            yield
        finally:
            self.give_back(holder)
