"""Watermarks: what this Machine knows the log to hold, which a replica may not have replayed yet. Pure: no clock, no
database.

A watermark is kept until the replica proves that it has caught up: it has replayed all that the primary had written at
a later moment. Until then each stream that the replica shows is compared with its watermark.
"""

from __future__ import annotations

from typing import Final

from gateway.protocol.batch import News, Stream
from gateway.protocol.target import Part, control_of, is_run, tenant_of

MOST: Final = 10_000
"""Streams with a watermark between two proofs. Beyond that no stream's is known."""

Mark = tuple[int, int, bool]
"""A stream's id (0: unknown), its tail, and whether it is closed."""


class _Marks:
    """The watermarks of the time between two proofs."""

    __slots__ = ("changed", "everything", "grown", "streams", "tenants")

    def __init__(self) -> None:
        self.streams: dict[str, Mark] = {}
        self.changed: set[str] = set()  # paths at which another stream may stand by now
        self.tenants: set[str] = set()  # whose lists of runs have changed
        self.grown = False  # any stream may have grown
        self.everything = False  # anything may have changed

    def add(self, path: str, mark: Mark) -> None:
        known = self.streams.get(path)
        if known is not None:
            id, tail, closed = known
            mark = max(id, mark[0]), max(tail, mark[1]), closed or mark[2]
        elif len(self.streams) >= MOST:
            self.grown = True
            if not mark[2]:
                return
            self.add_change(path)  # a replica that shows it open is behind
            return
        self.streams[path] = mark

    def add_change(self, path: str) -> None:
        if len(self.changed) < MOST:
            self.changed.add(path)
        else:
            self.everything = True

    def exceed(self, stream: Stream) -> bool:
        """True if a replica that shows this stream is behind, or may be."""
        if self.everything or stream.path in self.changed or (self.grown and not stream.closed):
            return True
        id, tail, closed = self.streams.get(stream.path, (0, 0, False))
        if id and stream.id != id:
            return stream.id < id  # an earlier stream at this path
        return stream.tail < tail or (closed and not stream.closed)


class Watermarks:
    """The watermarks that the replica has not proved yet. `turn` and `proved` are called in turn."""

    def __init__(self) -> None:
        self._new = _Marks()
        self._old = _Marks()  # which the look under way will prove

    def news(self, news: News) -> None:
        """Raises a stream's watermark by news of it, from this Machine or another one. Never raises an error."""
        new, path = self._new, news.path
        if news.deleted or (news.last < 1 and not news.closed):
            new.add_change(path)
        else:
            new.add(path, (0, news.last, news.closed))
            if not news.closed and not path.endswith(Part.CONTROL.value):
                return  # a plain event changes no record, and so no list
        self._add_tenant(path)

    def made(self, path: str) -> None:
        """Notes that a stream was made at this path."""
        self._new.add_change(path)
        self._add_tenant(path)

    def seen(self, path: str, tail: int, closed: bool, id: int = 0) -> None:
        """Raises a stream's watermark to the state in which a client was shown it."""
        self._new.add(path, (id, tail, closed))

    def doubt(self) -> None:
        """Notes that anything may have changed."""
        self._new.everything = True

    def turn(self) -> None:
        """Begins a look: the next `proved` is about all watermarks until now."""
        old, new = self._old, self._new
        for path, mark in old.streams.items():
            new.add(path, mark)
        for path in old.changed:
            new.add_change(path)
        new.tenants |= old.tenants
        new.grown |= old.grown
        new.everything |= old.everything
        self._old, self._new = new, _Marks()

    def proved(self) -> None:
        """Forgets the watermarks from before the last `turn`: the replica has reached them."""
        self._old = _Marks()

    def exceed(self, stream: Stream) -> bool:
        """True if a replica that shows this stream has not reached its watermark, or may not have."""
        return self._new.exceed(stream) or self._old.exceed(stream)

    def exceed_record(self, path: str, id: int, ended: bool) -> bool:
        """True if a replica that shows this record of a run may be behind. Events change no record; a request to stop
        comes by the run's control stream.
        """
        control = control_of(path)
        for marks in (self._new, self._old):
            known, _, closed = marks.streams.get(path, (0, 0, False))
            if marks.everything or marks.grown or path in marks.changed or control in marks.streams:
                return True
            if id < known or (closed and not ended):
                return True
        return False

    def exceed_list(self, tenant: str) -> bool:
        """True if a replica's list of a tenant's runs may be behind."""
        return any(marks.everything or marks.grown or tenant in marks.tenants for marks in (self._new, self._old))

    @property
    def none(self) -> bool:
        """True if the replica has proved all of them."""
        return not any(
            marks.streams or marks.changed or marks.tenants or marks.grown or marks.everything
            for marks in (self._new, self._old)
        )

    @property
    def deleted(self) -> frozenset[str]:
        """Paths at which a replica may show a stream that was deleted."""
        return frozenset(self._new.changed | self._old.changed)

    def _add_tenant(self, path: str) -> None:
        new = self._new
        if is_run(path) or path.endswith(Part.CONTROL.value):
            new.tenants.add(tenant_of(path))
            new.everything |= len(new.tenants) > MOST
