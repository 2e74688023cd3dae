"""Bytes -> server-sent events -> steps of a run (protocol §5.8), incrementally and without I/O.

However the bytes are cut into chunks, the same events come out; what has not come whole does not come at all.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field

from run_gateway.errors import BadAnswer

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event, whole."""

    type: str
    data: str


class Parser:
    """The event stream format of the HTML standard (§9.2): `feed` it chunks, it gives the events they end."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._first_line = True
        self._type = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that end in this chunk."""
        if not chunk:
            return []
        # A CR ends its line at once; the LF that belongs to it may be the first byte of the next chunk.
        start = 1 if self._after_cr and chunk.startswith(b"\n") else 0
        self._after_cr = chunk.endswith(b"\r")
        *ends, rest = _LINE_END.split(chunk[start:])
        events = []
        for end in ends:
            self._line += end
            event = self._take(bytes(self._line))
            self._line.clear()
            if event is not None:
                events.append(event)
        self._line += rest
        return events

    def _take(self, line: bytes) -> Event | None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._type = value
            case "data":
                self._data.append(value)
        return None

    def _dispatch(self) -> Event | None:
        event = Event(self._type or "message", "\n".join(self._data)) if self._data else None
        self._type, self._data = "", []
        return event


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of the stream together with the position after it: the two count only together."""

    data: tuple[str, ...]
    offset: str
    cursor: str | None = None
    up_to_date: bool = False
    closed: bool = False


@dataclass(slots=True)
class Steps:
    """Joins data to the control event that follows it. Data whose control never comes is never given."""

    _parser: Parser = field(default_factory=Parser)
    _pending: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> list[Step]:
        """The steps that end in this chunk. Raises BadAnswer for a control event that is none."""
        steps = []
        for event in self._parser.feed(chunk):
            if event.type == "data":
                self._pending.append(event.data)
            elif event.type == "control":
                steps.append(_step(tuple(self._pending), event.data))
                self._pending.clear()
        return steps


def _step(data: tuple[str, ...], control: str) -> Step:
    try:
        fields = json.loads(control)
        offset = fields["streamNextOffset"]
    except (ValueError, TypeError, KeyError):
        raise BadAnswer(f"a control event without streamNextOffset: {control[:200]!r}") from None
    return Step(
        data=data,
        offset=str(offset),
        cursor=fields.get("streamCursor"),
        up_to_date=fields.get("upToDate") is True,
        closed=fields.get("streamClosed") is True,
    )


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)


def elements(array: str) -> list[str]:
    """The elements of a JSON array as they were written, each on one line. Raises BadAnswer.

    Not parsed and printed again: numbers keep their digits, and depth costs nothing.
    """
    text = array.strip()
    if not (text.startswith("[") and text.endswith("]")):
        raise BadAnswer(f"not a JSON array: {array[:200]!r}")
    found, depth, start = [], 0, 1
    for token in _TOKEN.finditer(text, 1, len(text) - 1):
        match token[0]:
            case "[" | "{":
                depth += 1
            case "]" | "}":
                depth -= 1
            case "," if depth == 0:
                found.append(text[start : token.start()])
                start = token.end()
    found.append(text[start:-1])
    lines = [" ".join(element.split("\n")).strip() for element in found]
    return [] if lines == [""] else lines


def unbase64(data: str) -> bytes:
    """The bytes of a data event of a binary stream. Raises BadAnswer."""
    try:
        return base64.b64decode(data.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        raise BadAnswer("data that is not base64") from None
