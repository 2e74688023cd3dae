"""Event streams as the HTML standard reads them (§9.2.6, "interpreting an event stream"): the tests' own reading."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """A dispatched event; `last_event_id` is what an EventSource would resume from after it."""

    type: str
    data: str
    last_event_id: str


@dataclass
class Reading:
    """What an EventSource has after some bytes, cut anywhere: an event counts when its blank line has come."""

    events: list[Event] = field(default_factory=list)
    last_event_id: str = ""
    retry: int | None = None
    comments: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)


def read(stream: bytes) -> Reading:
    reading = Reading()
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _unfinished = re.split("\r\n|\r|\n", text)
    type = data = ""
    id = reading.last_event_id
    for line in lines:
        if not line:
            reading.last_event_id = id
            if data:
                reading.events.append(Event(type or "message", data.removesuffix("\n"), id))
            type = data = ""
        elif line.startswith(":"):
            reading.comments.append(line[1:])
        else:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            reading.fields.append(name)
            if name == "event":
                type = value
            elif name == "data":
                data += value + "\n"
            elif name == "id" and "\0" not in value:
                id = value
            elif name == "retry" and re.fullmatch("[0-9]+", value):
                reading.retry = int(value)
    return reading
