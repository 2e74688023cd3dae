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


def batches(lines: Iterable[bytes]) -> Iterator[Batch]:
    """The lines of an event stream -> what may be counted as read. Data without its control comes again, and is not."""
    name, data, held = "message", [], ""
    for line in lines:
        text = line.rstrip(b"\r\n").decode()
        field_, _, value = text.partition(":")
        if field_ == "event":
            name = value.removeprefix(" ")
        elif field_ == "data":
            data.append(value.removeprefix(" "))
        elif not text and data:
            payload = "\n".join(data)
            if name == "control":
                yield _batch(held, json.loads(payload))
                held = ""
            else:
                held = payload
            name, data = "message", []


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
