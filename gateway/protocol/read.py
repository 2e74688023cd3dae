"""GET: a read from an offset on, which ends, waits or follows at the tail (§5.6–5.8)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl

from gateway.protocol.errors import InvalidRequest
from gateway.protocol.fields import NUMBER, RawHeaders, accept_of, is_true, only_events, prefers_events, single_headers
from gateway.protocol.fold import Fold, parse_fold
from gateway.protocol.offset import MAX_POSITION, NOW, START, parse_cursor, parse_offset, parse_position


class Live(Enum):
    """The way in which a read goes on at the tail."""

    NO = ""
    LONG_POLL = "long-poll"
    SSE = "sse"


RESUMING: Final = ("lastEventId", "Last-Event-ID", "last-event-id", "lastEventID", "evs_last_event_id")
"""Parameters of a query by which polyfills of EventSource, which cannot set headers either, send `Last-Event-ID`."""

TOLD: Final = b"_closed"
"""The suffix of the last event's `id`, by which the version before told an EventSource that the stream has ended."""

PATIENCE: Final = 3.0
"""Seconds that an EventSource waits for a stream that is not there yet, unless it says so: at a 404 it would give up
for good. Some other clients that accept nothing but event streams give up if no answer has begun after 5 s."""

MAX_WAIT: Final = 300.0
"""Seconds that a live read may wait for a stream that is not there yet."""

_HEADERS: Final = frozenset((b"last-event-id", b"if-none-match", b"stream-next-offset", b"stream-closed"))
_LIVE: Final[dict[str | None, Live]] = {None: Live.NO, "long-poll": Live.LONG_POLL, "sse": Live.SSE}


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """GET (§5.6–5.8). `position` may be NOW. `last_events`: begin so many events before the tail.

    `resumed`: an EventSource goes on where it was. `named`: events of an event stream have names; otherwise each comes
    alone, for `onmessage`. `wait`: seconds that a live read waits for a stream that is not there yet. `fold`: how
    events that there are already are read as fewer. `seen`, `ended`: how much the stream holds at least, and that it is
    closed, as its client was told with an append.
    """

    path: str
    position: int
    offset: bytes  # as the client wrote it
    live: Live
    last_events: int | None
    cursor: int | None
    if_none_match: bytes | None
    resumed: bool = False
    named: bool = True
    wait: float = 0.0
    fold: Fold | None = None
    seen: int = START
    ended: bool = False


def parse_read(path: str, headers: RawHeaders, query: bytes, *, with_tail: bool) -> ReadRequest:
    """A GET as a ReadRequest. `with_tail`: whether `tail=N` has a meaning here. Raises InvalidRequest.

    A client that would rather have an event stream (Accept) gets one, from the start unless it says where.
    """
    pairs = _query(query)
    params = dict(pairs)
    found = single_headers(headers, _HEADERS)
    live = _LIVE.get(params.get("live"))
    if live is None:
        raise InvalidRequest("live must be long-poll or sse.")
    accept = b"" if live is Live.LONG_POLL else accept_of(headers)
    events = prefers_events(accept)
    if live is Live.NO and events:
        live = Live.SSE
    offset = params["offset"].encode("latin-1", "replace") if "offset" in params else None
    resumed = last_event_id(found, pairs) if live is Live.SSE else None
    if resumed:  # an EventSource reconnects with the same URL, and says here where it stands
        offset = resumed.removesuffix(TOLD)
    if offset is None and live is not Live.NO and not events:
        raise InvalidRequest("A live read requires an offset.")
    position = START if offset is None else parse_offset(offset)
    if position is None:
        raise InvalidRequest("offset must be -1, now, or one that was given out.")
    last_events = _last_events(params["tail"], position, resumed) if with_tail and "tail" in params else None
    return ReadRequest(
        path=path,
        position=position,
        offset=b"-1" if offset is None else offset,
        live=live,
        last_events=0 if position == NOW else last_events,
        cursor=parse_cursor(params.get("cursor", "").encode("latin-1", "replace")),
        if_none_match=found.get(b"if-none-match"),
        resumed=resumed is not None,
        named=_named(params.get("named"), live),
        wait=_wait(params.get("wait"), live, only_events(accept) and resumed is None),
        fold=parse_fold(params["fold"]) if "fold" in params else None,
        seen=_seen(found),
        ended=is_true(found.get(b"stream-closed")),
    )


def _seen(found: dict[bytes, bytes]) -> int:
    """The offset that its client was given with an append, if it says so. Raises InvalidRequest."""
    given = found.get(b"stream-next-offset")
    position = START if given is None else parse_position(given)
    if position is None:
        raise InvalidRequest("Stream-Next-Offset must be an offset that was given out.")
    return position


def last_event_id(found: dict[bytes, bytes], pairs: list[tuple[str, str]]) -> bytes | None:
    """The offset that an EventSource resumes from: its header, or else the query, in `pairs`. None: it does not resume.

    An empty value is as if absent, since polyfills send one with their first request. Raises InvalidRequest if the
    query holds several.
    """
    header = found.get(b"last-event-id")
    if header:
        return header
    given = [value for name, value in pairs if name in RESUMING and value]
    if len(given) > 1:
        raise InvalidRequest("The last event's id is there more than once.")
    return given[0].encode("latin-1", "replace") if given else None


def _query(query: bytes) -> list[tuple[str, str]]:
    if not query:
        return []
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=32)
    except ValueError:
        raise InvalidRequest("The query string cannot be read.") from None
    names = [name for name, _ in pairs]
    for name in ("offset", "live", "tail", "cursor", "fold", "named", "wait"):
        if names.count(name) > 1:
            raise InvalidRequest(f"{name} is there more than once.")
    return pairs


def _last_events(tail: str, position: int, resumed: bytes | None) -> int | None:
    if not NUMBER.fullmatch(tail.encode("latin-1", "replace")) or int(tail[:20]) < 1:
        raise InvalidRequest("tail must be a whole number of at least 1.")
    if resumed:
        return None
    if position != START:
        raise InvalidRequest("tail goes with offset=-1 alone.")
    return min(int(tail[:20]), MAX_POSITION)


def _named(named: str | None, live: Live) -> bool:
    if named not in (None, "true", "false"):
        raise InvalidRequest("named must be true or false.")
    if named is not None and live is not Live.SSE:
        raise InvalidRequest("named goes with live=sse.")
    return named != "false"


def _wait(wait: str | None, live: Live, event_source: bool) -> float:
    if wait is None or live is Live.NO:
        return PATIENCE if event_source else 0.0
    try:
        seconds = float(wait)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= MAX_WAIT:
        raise InvalidRequest(f"wait must be a number of seconds from 0 to {MAX_WAIT:g}.")
    return seconds
