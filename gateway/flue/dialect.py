"""Flue's dialect of Durable Streams (`runtime/handle-stream-routes.ts`): offsets, headers, and which error goes first.

An offset names the last event that was read, the first one being 0, and `-1` is the one before it. A position counts
the events before it. So offset = position - 1.
"""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Final
from urllib.parse import parse_qsl

from gateway.protocol.batch import Batch, Stream
from gateway.protocol.dialect import Dialect
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.fields import RawHeaders, accept_of, only_events, single_headers
from gateway.protocol.headers import CLOSED, JSON, NO_STORE, UP_TO_DATE, Headers, of_state
from gateway.protocol.offset import MAX_POSITION, NOW, START, format_offset, parse_cursor
from gateway.protocol.read import TOLD, Live, ReadRequest, last_event_id

_OFFSET: Final = re.compile(rb"[0-9]+_([0-9]+)")
_TAIL: Final = re.compile(r"[1-9][0-9]*")
_DIGITS: Final = 19  # a number of as many digits is beyond every position


def offset_of(position: int) -> bytes:
    """The offset of what has been read up to a position."""
    return format_offset(position - 1) if position else b"-1"


def position_of(offset: bytes) -> int | None:
    """The position after an offset; `NOW` for `now`; None when it is none."""
    if offset == b"-1":
        return START
    if offset == b"now":
        return NOW
    match = _OFFSET.fullmatch(offset)
    if match is None:
        return None
    digits = match[1].lstrip(b"0")
    return MAX_POSITION if len(digits) >= _DIGITS else int(digits or b"0") + 1


def etag(stream: Stream, start: bytes, end: int, closed: bool) -> bytes:
    return _etag(stream, start, offset_of(end), closed)


def of_batch(stream: Stream, batch: Batch, start: bytes, *, cursor: int | None, now: bool) -> Headers:
    """Catch-up and, with a cursor, a long-poll that has data. Where nothing came, the offset is the reader's own."""
    asks_where = now and cursor is None
    end = start if batch.empty and not now else offset_of(batch.end)
    headers = [JSON, (b"stream-next-offset", end), NO_STORE]
    if not asks_where:
        # A long-poll from `now` on began, as Flue has it, at the tail that it found.
        headers.append((b"etag", _etag(stream, offset_of(batch.start) if now else start, end, batch.closed)))
    return headers + of_state(batch, cursor)


def of_nothing_new(position: int, closed: bool, cursor: int) -> Headers:
    """A long-poll that ends without data: at the reader's own position, and closed only if nothing came before that."""
    headers = [(b"stream-next-offset", offset_of(position)), UP_TO_DATE, (b"stream-cursor", b"%d" % cursor)]
    if closed:
        headers.append(CLOSED)
    return headers


def of_stream(stream: Stream) -> Headers:
    """HEAD."""
    headers = [JSON, (b"stream-next-offset", offset_of(stream.tail)), UP_TO_DATE, NO_STORE]
    if stream.closed:
        headers.append(CLOSED)
    headers.append((b"etag", etag(stream, b"-1", stream.tail, stream.closed)))
    return headers


FLUES: Final = Dialect(offset_of, etag, of_batch, of_nothing_new)


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """A query string as URLSearchParams has it. Raises InvalidRequest."""
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=64)
    except ValueError:
        raise InvalidRequest("The query string cannot be read.") from None


def parse_read(path: str, headers: RawHeaders, query: list[tuple[str, str]]) -> ReadRequest:
    """A GET that reads a run's events, judged in Flue's order. Raises InvalidRequest.

    `Last-Event-ID`, which Flue does not know, is a browser's own reconnect: it stands for the offset. So does what
    polyfills write in its place. Nor does Flue know an EventSource that has the address alone, and is given an event
    stream from the start (`gateway.protocol.read`); or `named`.
    """
    offsets, tails = ([value for name, value in query if name == wanted] for wanted in ("offset", "tail"))
    first = dict(reversed(query))
    found = single_headers(headers, frozenset((b"last-event-id", b"if-none-match")))
    if len(offsets) > 1:
        raise InvalidRequest("Duplicate offset parameters are not allowed.")
    if len(tails) > 1:
        raise InvalidRequest("Duplicate tail parameters are not allowed.")
    if tails and not _TAIL.fullmatch(tails[0]):
        raise InvalidRequest("Tail must be an integer greater than or equal to 1.")
    by_accept = "live" not in first and only_events(accept_of(headers))
    live_sse = by_accept or first.get("live") == "sse"
    resumed = last_event_id(found, query) if live_sse else None
    if "live" in first and not offsets and not resumed:
        raise InvalidRequest("Offset is required for live mode.")
    if first.get("live") not in (None, "long-poll", "sse"):
        raise InvalidRequest('Invalid live mode. Use "long-poll" or "sse".')
    live = Live.SSE if by_accept else Live(first.get("live", ""))
    asked = offsets[0].encode("latin-1", "replace") if offsets else b"-1"
    offset = asked if resumed is None else resumed.removesuffix(TOLD)
    position = position_of(offset)
    if position is None:
        raise InvalidRequest("Invalid offset format.")
    last_events = min(int(tails[0][:_DIGITS]), MAX_POSITION) if tails and offset == b"-1" and not resumed else None
    return ReadRequest(
        path=path,
        position=position,
        offset=offset,
        live=live,
        last_events=0 if position == NOW else last_events,
        cursor=parse_cursor(first.get("cursor", "").encode("latin-1", "replace")),
        if_none_match=found.get(b"if-none-match") if live is Live.NO else None,
        resumed=resumed is not None,
        named=not live_sse or first.get("named") != "false",
    )


def _etag(stream: Stream, start: bytes, end: bytes, closed: bool) -> bytes:
    return b'"%b:%b:%b%b"' % (b64encode(stream.path.encode()), start, end, b":c" if closed else b"")
