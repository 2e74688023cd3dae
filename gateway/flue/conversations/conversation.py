"""A conversation as far as its rows have been read here: what it looks like, and what each batch shows of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Final

import orjson

from gateway.flue.conversations.chunks import chunks
from gateway.flue.conversations.errors import Gone, Unreadable
from gateway.flue.conversations.fold import LACKS, Fold
from gateway.flue.conversations.history import snapshot
from gateway.protocol.batch import JSON_TYPE, Batch, Page, Stream

PAGE: Final = 100
"""Batches in an answer, as Flue has it."""
END: Final = b"\n"
"""The mark behind a batch's chunks in a `Batch`, whose events they are: a batch may have none, or several."""
_BETWEEN: Final = END + b","


class Conversation:
    """Batches are appended in their order; a position is the number of those before it."""

    def __init__(self, path: str, incarnation: str) -> None:
        self.path = path
        self.incarnation = incarnation
        self.id = id_of(incarnation)
        self.size = 0  # bytes of its batches and of what they show
        self._fold = Fold()
        self._shown: list[bytes] = []
        self._history = b""

    @property
    def tail(self) -> int:
        return len(self._shown)

    def append(self, data: Sequence[str]) -> None:
        """Takes the next batches, as they stand in their rows. Raises Unreadable, and is of no use from then on."""
        self._history = b""
        for each in data:
            text = each.encode()
            records = _records(text)
            with _lacking_nothing():
                self._fold.apply(records)
                shown = chunks(self._fold, records, self.tail) + END
            self._shown.append(shown)
            self.size += len(text) + len(shown)

    def page(self, position: int) -> Page:
        """Up to PAGE batches after a position. Raises Gone for one beyond the last."""
        return Page(self.stream, self.between(position, min(position + PAGE, self.tail)))

    def between(self, start: int, end: int) -> Batch:
        """The batches from one position to another. Raises Gone for what is not there."""
        if not start <= end <= self.tail:
            raise Gone
        shown = self._shown[start:end]
        lengths = [len(each) for each in shown]
        return Batch(start, end, b",".join(shown), end == self.tail, False, lengths)

    @property
    def stream(self) -> Stream:
        return Stream(self.id, self.path, JSON_TYPE, self.tail, False)

    def history(self) -> bytes:
        """The answer to `?view=history`. Raises Unreadable if there is none."""
        if self._fold.root is None:
            raise Unreadable
        if not self._history:
            with _lacking_nothing():
                shown = snapshot(self._fold, self.tail - 1)
            self._history = orjson.dumps({**shown, "incarnation": self.incarnation})
        return self._history


def id_of(incarnation: str) -> int:
    """A number that stands for an incarnation."""
    return int.from_bytes(blake2b(incarnation.encode(), digest_size=7).digest())


def shown(batch: Batch) -> bytes:
    """The chunks of all of its events, with commas between."""
    return b",".join(filter(None, batch.body.removesuffix(END).split(_BETWEEN)))


@contextmanager
def _lacking_nothing() -> Iterator[None]:
    """Raises Unreadable for a record that has not all that it should have."""
    try:
        yield
    except LACKS as error:
        raise Unreadable(f"A record lacks something: {error!r}.") from None


def _records(text: bytes) -> list[dict[str, object]]:
    """The records of a batch. Raises Unreadable if their values could look different when they are written again."""
    try:
        records = orjson.loads(text)
        same = orjson.dumps(records) == text
    except ValueError as error:
        raise Unreadable("A batch is not JSON that is known here.") from error
    if not same or not isinstance(records, list):
        raise Unreadable("A batch is not written as JSON is here.")
    return records
