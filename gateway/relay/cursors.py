"""A client's position, where it gives a number and not an id of ours.

Pure. `startIndex = frames`: the query's field is the number of frames with data that it has. `starting_after >
sequence_number`: it has those whose own number, a field of their JSON, is not larger than the query's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.protocol.json_body import value_of
from gateway.relay.framing import Kind, data_of, has_data
from gateway.relay.keys import field

Skip = Callable[[bytes], bool]
"""Whether the client has a frame already. Is given the frames in their order, from the first one on."""

_FORM: Final = re.compile(r"(\w+) (?:= frames|> ([\w.]+))")
_NUMBER: Final = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class Cursor:
    """`parameter` of the query is a count, or is compared with the number in `field` of each frame."""

    parameter: str
    field: str | None

    @staticmethod
    def parse(text: str) -> Cursor:
        """Raises ValueError, whose words follow the text's place in a sentence."""
        form = _FORM.fullmatch(text)
        if form is None:
            raise ValueError(f"{text!r} must be such as 'startIndex = frames' or 'starting_after > sequence_number'")
        return Cursor(form[1], form[2])

    def skip(self, kind: Kind, query: Mapping[str, str]) -> Skip | None:
        """The position up to which this client has all; None: it begins at the start."""
        given = query.get(self.parameter, "")
        if _NUMBER.fullmatch(given) is None:
            return None
        number = int(given)
        return _first(kind, number) if self.field is None else _up_to(kind, self.field, number)

    def __str__(self) -> str:
        return f"{self.parameter} = frames" if self.field is None else f"{self.parameter} > {self.field}"


def _first(kind: Kind, count: int) -> Skip:
    left = count

    def skip(frame: bytes) -> bool:
        nonlocal left
        if left and has_data(kind, frame):
            left -= 1
            return True
        return bool(left)

    return skip


def _up_to(kind: Kind, name: str, number: int) -> Skip:
    skipping = True

    def skip(frame: bytes) -> bool:
        nonlocal skipping
        try:
            own = field(value_of(data_of(kind, frame)), name)
        except ValueError:
            own = None
        if isinstance(own, int):
            skipping = own < number
            return own <= number
        return skipping  # one without a number goes with the next: it may be the end, which the client has to be told

    return skip
