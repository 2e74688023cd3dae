"""Flue 2.1.0's way to ask for a conversation and to answer (`handle-conversation-routes.ts`). Pure.

Only what is surely asked is parsed. All else, and everything that Flue answers with an error, is for the app.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl

from gateway.asgi import Headers
from gateway.flue.conversations.conversation import shown
from gateway.flue.conversations.history import offset_of
from gateway.protocol.batch import Batch

_OFFSET: Final = re.compile(r"-1|0{16}_[0-9]{16}")
_NO_STORE: Final = [(b"cache-control", b"no-store"), (b"content-type", b"application/json")]


class View(Enum):
    """The view of a conversation that is asked for."""

    HISTORY = "history"
    UPDATES = "updates"
    LONG_POLL = "long-poll"
    SSE = "sse"


@dataclass(frozen=True, slots=True)
class Asked:
    """`position`: the number of batches that the client has had; of a history it means nothing."""

    view: View
    position: int = 0

    @property
    def live(self) -> bool:
        return self.view in (View.LONG_POLL, View.SSE)


def parse(query: bytes) -> Asked | None:
    """Parses a query; None: the app has to answer it."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        return None
    named = dict(pairs)
    view, offset, live = named.pop("view", "history"), named.pop("offset", None), named.pop("live", None)
    if named or len(pairs) != len(dict(pairs)):
        return None
    if view == "history":
        return Asked(View.HISTORY) if offset is None and live is None else None
    if view != "updates" or offset is None or not _OFFSET.fullmatch(offset) or live not in (None, "long-poll", "sse"):
        return None
    return Asked(View(live or "updates"), 0 if offset == "-1" else int(offset.partition("_")[2]) + 1)


FIRST_PAGE: Final = b"view=updates&offset=-1"
"""The query for what a conversation began with, which does not change."""
ALL: Final = b"view=history"
"""The query for what a conversation looks like now."""


def of_history(position: int) -> Headers:
    return [*_NO_STORE, (b"stream-next-offset", _offset(position)), (b"stream-up-to-date", b"true")]


def of_updates(batch: Batch) -> Headers:
    up_to_date = [(b"stream-up-to-date", b"true")] if batch.up_to_date else []
    return [*_NO_STORE, (b"stream-next-offset", _offset(batch.end)), *up_to_date]


def of_events() -> Headers:
    return [(b"cache-control", b"no-cache"), (b"content-type", b"text/event-stream")]


def updates(incarnation: str, batch: Batch) -> bytes:
    """The body of an answer to `?view=updates`."""
    chunks = shown(batch)
    return b"[%b%b%b]" % (_checkpoint(incarnation), b"," if chunks else b"", chunks)


def first_event(incarnation: str) -> bytes:
    """The event with which each event stream begins."""
    return b"event: data\ndata:[%b]\n\n" % _checkpoint(incarnation)


def events(batch: Batch) -> bytes:
    """The events of a batch."""
    chunks = shown(batch)
    data = b"event: data\ndata:[%b]\n\n" % chunks if chunks else b""
    up_to_date = b',"upToDate":true' if batch.up_to_date else b""
    return b'%bevent: control\ndata:{"streamNextOffset":"%b"%b}\n\n' % (data, _offset(batch.end), up_to_date)


def _checkpoint(incarnation: str) -> bytes:
    return b'{"type":"stream-checkpoint","incarnation":"%b"}' % incarnation.encode()


def _offset(position: int) -> bytes:
    return offset_of(position - 1).encode()
