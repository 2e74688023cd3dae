"""What a reader must see: every event of a run once, in order, to its end. Pure: no sockets, no clock, no locust.

A check of its own, which shares no code with the gateway or its client: an error in those cannot excuse itself here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

START = "-1"


class Broken(Exception):
    """A reader was shown something else than the run."""


@dataclass(frozen=True)
class Batch:
    """Events that are certain: the control that names the offset after them has come too."""

    events: list[dict[str, Any]]
    offset: str
    cursor: str | None
    closed: bool


class Events:
    """The lines of an event stream, one by one -> server-sent events: name, id, data."""

    def __init__(self) -> None:
        self._name = "message"
        self._id = ""  # stays until there is another
        self._data: list[str] = []

    def take(self, line: bytes) -> tuple[str, str, str] | None:
        """The event that ends with this line, if one does."""
        text = line.rstrip(b"\r\n").decode()
        field_, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field_ == "event":
            self._name = value
        elif field_ == "id":
            self._id = value
        elif field_ == "data":
            self._data.append(value)
        elif not text and self._data:
            event = self._name, self._id, "\n".join(self._data)
            self._name, self._data = "message", []
            return event
        return None


class Lines:
    """The lines of an event stream -> what may be counted as read, as the protocol's clients do.

    Data without its control comes again, and is not.
    """

    def __init__(self) -> None:
        self._events = Events()
        self._held = ""

    def take(self, line: bytes) -> Batch | None:
        """The batch that ends with this line, if one does."""
        event = self._events.take(line)
        if event is None:
            return None
        name, _, data = event
        if name != "control":
            self._held = data
            return None
        held, self._held = self._held, ""
        return _batch(held, json.loads(data))


class Ids:
    """The same as a browser's EventSource does: each event counts at once, and its id is where to go on."""

    def __init__(self) -> None:
        self._events = Events()

    def take(self, line: bytes) -> Batch | None:
        """What the event that ends with this line holds, if one does."""
        event = self._events.take(line)
        if event is None:
            return None
        name, id, data = event
        if name == "control":
            return Batch([], id, None, bool(json.loads(data).get("streamClosed")))
        return Batch(json.loads(data), id, None, False)


def batches(lines: Iterable[bytes]) -> Iterator[Batch]:
    """The batches of a whole stream of lines."""
    parse = Lines()
    for line in lines:
        batch = parse.take(line)
        if batch is not None:
            yield batch


def _batch(held: str, control: dict[str, Any]) -> Batch:
    return Batch(
        json.loads(held) if held else [],
        control["streamNextOffset"],
        control.get("streamCursor"),
        bool(control.get("streamClosed")),
    )


@dataclass
class Watch:
    """One reader's account of one run: hand it everything that was read, through every mode and every resume."""

    run: str
    offset: str = START
    cursor: str | None = None
    read: int = 0
    closed: bool = False
    last: dict[str, Any] = field(default_factory=dict)

    def take(self, batch: Batch) -> None:
        """Raises Broken for an event that is missing, repeated, of another run or after the end."""
        for event in batch.events:
            if event["run"] != self.run:
                raise Broken(f"{self.run} was shown an event of {event['run']}")
            if event["n"] != self.read:
                raise Broken(f"{self.run} at {self.offset}: event {event['n']} came instead of {self.read}")
            if self.closed:
                raise Broken(f"{self.run}: event {event['n']} came after the end")
            self.read += 1
            self.last = event
        self.offset, self.cursor = batch.offset, batch.cursor
        if batch.closed:
            self.closed = True
            if not self.last.get("end"):
                raise Broken(f"{self.run} is closed, and the last event seen is {self.read - 1}, which is not its end")
