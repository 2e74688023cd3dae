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

    def full(self, holder: str, count: int = 1) -> bool:
        """True if the holder has no room for so many more."""
        return self.held.get(holder, 0) + count > self.limit

    def take(self, holder: str, count: int = 1) -> None:
        self.held[holder] = self.held.get(holder, 0) + count

    def give_back(self, holder: str, count: int = 1) -> None:
        left = self.held[holder] - count
        if left:
            self.held[holder] = left
        else:
            del self.held[holder]

    @contextmanager
    def one(self, holder: str, count: int = 1) -> Iterator[None]:
        """Holds one, or `count`, while the block runs."""
        self.take(holder, count)
        try:
            yield
        finally:
            self.give_back(holder, count)
