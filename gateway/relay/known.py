"""Frames that an upstream sends again: which of them are in the log already.

Pure. An upstream that can go on with an answer is asked for it from a little before the log's end, so that what comes
first has to be what is there. A gap, or another answer, is seen by that, and nothing is recorded twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from gateway.protocol.json_body import value_of
from gateway.relay.framing import Kind, data_of, has_data, last_id
from gateway.relay.keys import as_key, field

_FORM: Final = re.compile(r"id|frames|frame:(\S+)")


class NotTheSame(Exception):
    """Raised where the upstream sends again something else than what is recorded; the message follows a subject."""


@dataclass(frozen=True, slots=True)
class Last:
    """The name of the last frame for the upstream: its `id`, the number of `frames` with data, or a field."""

    by: str

    @staticmethod
    def parse(text: str) -> Last:
        """Raises ValueError, whose words follow the text's place in a sentence."""
        if _FORM.fullmatch(text) is None:
            raise ValueError(f"{text!r} must be id, frames, or a field such as frame:sequence_number")
        return Last(text)

    @property
    def field(self) -> str | None:
        return self.by.removeprefix("frame:") if self.by.startswith("frame:") else None

    def __str__(self) -> str:
        return self.by


class Known:
    """The frames that are in the log, from the first one on: each as a mark by which it is known again."""

    def __init__(self, kind: Kind, last: Last) -> None:
        self._kind = kind
        self._last = last
        self._marks: list[bytes] = []
        self._names: list[str | None] = []  # what the upstream calls each of them
        self._counted = 0

    def add(self, frame: bytes) -> None:
        """The log's next frame."""
        mark, name = self._read(frame)
        if self._last.by == "frames" and has_data(self._kind, frame):
            self._counted += 1
            name = str(self._counted)
        self._marks.append(mark)
        self._names.append(name)

    def begin(self) -> tuple[str | None, Overlap]:
        """Finds the frame after which the upstream is asked to begin (None: at its start), and the overlap that has to
        come then.

        At least one frame of the log has to come again. Several frames may have one name (LangGraph's have, within a
        millisecond), of which the upstream may leave out all: so it is told one that none of the later ones has.
        """
        later = set[str]()
        for first in reversed(range(1, len(self._marks) + 1)):
            name = self._names[first - 1]
            if name is None:
                continue
            # If that frame is like the first one, an upstream that has begun at its start would not be noticed.
            if first < len(self._marks) and name not in later and self._marks[first] != self._marks[0]:
                return name, Overlap(self, first)
            later.add(name)
        return None, Overlap(self, 0)

    @property
    def marks(self) -> list[bytes]:
        return self._marks

    def mark(self, frame: bytes) -> bytes:
        """The mark by which a frame is recognised: the number that the upstream promises for it, or else its bytes."""
        return self._read(frame)[0]

    def _read(self, frame: bytes) -> tuple[bytes, str | None]:
        name = None
        if self._last.by == "id":
            id = last_id(frame)
            name = id.decode("latin-1") if id else None
        elif self._last.field is not None:
            name = as_key(_field(data_of(self._kind, frame), self._last.field))
            if name is not None:
                return name.encode(), name
        return b"=" + blake2b(frame, digest_size=16).digest(), name


class Overlap:
    """The comparison of what an upstream sends again with the log. `over`: all of the log has come again; from now on
    frames are new.
    """

    def __init__(self, known: Known, first: int) -> None:
        self._known = known
        self._first = first
        self._at = None if known.marks else 0  # the frame that has to come next, once it is known where it begins

    @property
    def over(self) -> bool:
        return self._at == len(self._known.marks)

    def take(self, frame: bytes) -> None:
        """The next frame of what comes again, while that is not over. Raises NotTheSame."""
        mark = self._known.mark(frame)
        if self._at is None:
            self._at = self._begins(mark)
        if self._known.marks[self._at] != mark:
            raise NotTheSame("sends something else than is recorded")
        self._at += 1

    def _begins(self, mark: bytes) -> int:
        """The place where the upstream begins: the one that it was asked for, or an earlier one without any doubt."""
        marks = self._known.marks
        if marks[self._first] == mark:
            return self._first
        places = [place for place in range(self._first) if marks[place] == mark]
        if len(places) != 1:
            raise NotTheSame("leaves a gap, or has another answer")
        return places[0]


def _field(data: bytes, name: str) -> object:
    try:
        return field(value_of(data), name)
    except ValueError:
        return None
