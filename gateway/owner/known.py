"""A worker's cache of owners by their keys, so that not every request asks the database."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from gateway.owner.rules import Owned

MOST: Final = 65_536
"""Keys that are remembered: some 20 MB."""
FRESH: Final = 1.0
"""Seconds for which another Machine is taken for the owner without asking again."""


class Known:
    """Owners by their keys' digests. That nobody has a key is never remembered: a reader would miss its first owner."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[Owned, float | None]] = OrderedDict()

    def get(self, digest: bytes, own_life: int | None, *, fresh: bool = False) -> Owned | None:
        """The owner, if it is this very life, or was found out within a second; `fresh`: if it is this very life."""
        found = self._known.get(digest)
        if found is None:
            return None
        owned, asked = found
        if asked is None:
            return None
        if owned.life == own_life or (not fresh and self._clock() - asked < FRESH):
            self._known.move_to_end(digest)
            return owned
        return None

    def last(self, digest: bytes) -> Owned | None:
        """The owner that was found out last, however long ago."""
        found = self._known.get(digest)
        return None if found is None else found[0]

    def note(self, digest: bytes, owned: Owned) -> None:
        """Notes what the database has just answered."""
        self._known[digest] = owned, self._clock()
        self._known.move_to_end(digest)
        if len(self._known) > MOST:
            self._known.popitem(last=False)

    def forget_all(self) -> None:
        """Forgets all owners: the database may be another one."""
        self._known.clear()

    def doubt_all(self) -> None:
        """Doubts all owners: see `doubt`."""
        for digest in list(self._known):
            self.doubt(digest)

    def doubt(self, digest: bytes) -> None:
        """Has a key's owner be asked for anew. The old answer is kept for `last`, in case that the database is away."""
        found = self._known.get(digest)
        if found is not None:
            self._known[digest] = found[0], None
