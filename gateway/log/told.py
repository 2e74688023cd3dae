"""What a Machine has been told of the log that its replica may lack. Pure: it knows no clock and no database.

What is told is kept until the replica proves that it has it: it has replayed all that the primary had written at a
later moment. Until then a stream, as the replica shows it, is compared with what was told of it.
"""

from __future__ import annotations

from typing import Final

from gateway.protocol.batch import News, Stream
from gateway.protocol.run_path import Part, control_of, is_run
from gateway.protocol.tenants import tenant_of

MOST: Final = 10_000
"""Streams that are remembered for one look at the replica. Beyond that nothing is known of any."""

Place = tuple[int, int, bool]
"""A stream's id (0: it was not told), its tail, and whether it is closed."""


class _Told:
    """What was told within a time."""

    __slots__ = ("changed", "everything", "grown", "places", "tenants")

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.changed: set[str] = set()  # paths at which another stream may stand by now
        self.tenants: set[str] = set()  # whose lists of runs have changed
        self.grown = False  # any stream may have grown
        self.everything = False

    def add(self, path: str, place: Place) -> None:
        known = self.places.get(path)
        if known is not None:
            id, tail, closed = known
            place = max(id, place[0]), max(tail, place[1]), closed or place[2]
        elif len(self.places) >= MOST:
            self.grown = True
            if not place[2]:
                return
            self.add_change(path)  # a replica that shows it open is behind
            return
        self.places[path] = place

    def add_change(self, path: str) -> None:
        if len(self.changed) < MOST:
            self.changed.add(path)
        else:
            self.everything = True

    def lacks(self, stream: Stream) -> bool:
        """Whether a replica that shows a stream so is behind, or may be."""
        if self.everything or stream.path in self.changed or (self.grown and not stream.closed):
            return True
        id, tail, closed = self.places.get(stream.path, (0, 0, False))
        if id and stream.id != id:
            return stream.id < id  # an earlier stream at this path
        return stream.tail < tail or (closed and not stream.closed)


class Told:
    """What was told since the replica has last proved that it has everything. `turn` and `proved` take turns."""

    def __init__(self) -> None:
        self._new = _Told()
        self._old = _Told()  # which a look that is under way will prove

    def news(self, news: News) -> None:
        """Takes news of a stream, by this Machine or another one. Never raises."""
        new, path = self._new, news.path
        if news.deleted or (news.last < 1 and not news.closed):
            new.add_change(path)
        else:
            new.add(path, (0, news.last, news.closed))
            if not news.closed and not path.endswith(Part.CONTROL.value):
                return  # a record, and so a list, tells nothing of it
        self._add_tenant(path)

    def made(self, path: str) -> None:
        """Takes note that a stream was made at this path."""
        self._new.add_change(path)
        self._add_tenant(path)

    def seen(self, path: str, tail: int, closed: bool, id: int = 0) -> None:
        """Takes note of where a stream stands, as it was shown to somebody."""
        self._new.add(path, (id, tail, closed))

    def doubt(self) -> None:
        """Takes note that anything may have happened."""
        self._new.everything = True

    def turn(self) -> None:
        """What was told until now is what the next `proved` is about."""
        old, new = self._old, self._new
        for path, place in old.places.items():
            new.add(path, place)
        for path in old.changed:
            new.add_change(path)
        new.tenants |= old.tenants
        new.grown |= old.grown
        new.everything |= old.everything
        self._old, self._new = new, _Told()

    def proved(self) -> None:
        """The replica has what was told until the last `turn`."""
        self._old = _Told()

    def lacks(self, stream: Stream) -> bool:
        """Whether a replica that shows a stream so lacks something that was told, or may."""
        return self._new.lacks(stream) or self._old.lacks(stream)

    def lacks_record(self, path: str, id: int, ended: bool) -> bool:
        """The same of a run's record, which tells nothing of its events; who asks a run to stop does so by its control
        stream.
        """
        control = control_of(path)
        for told in (self._new, self._old):
            known, _, closed = told.places.get(path, (0, 0, False))
            if told.everything or told.grown or path in told.changed or control in told.places:
                return True
            if id < known or (closed and not ended):
                return True
        return False

    def lacks_list(self, tenant: str) -> bool:
        """The same of a list of a tenant's runs."""
        return any(told.everything or told.grown or tenant in told.tenants for told in (self._new, self._old))

    @property
    def nothing(self) -> bool:
        """True if nothing was told that the replica has not proved to have."""
        return not any(
            told.places or told.changed or told.tenants or told.grown or told.everything
            for told in (self._new, self._old)
        )

    @property
    def deleted(self) -> frozenset[str]:
        """Paths at which a replica may show a stream that is no more."""
        return frozenset(self._new.changed | self._old.changed)

    def _add_tenant(self, path: str) -> None:
        new = self._new
        if is_run(path) or path.endswith(Part.CONTROL.value):
            new.tenants.add(tenant_of(path))
            new.everything |= len(new.tenants) > MOST
