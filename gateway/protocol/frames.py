"""Batches as bytes: SSE frames (§5.8) and response bodies (§5.6, §9.1.5). One encoding serves every reader."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Generator, Iterable
from typing import Final

from gateway.protocol.batch import LINE, Batch, Encoding, cuts, singles
from gateway.protocol.json_body import at_once
from gateway.protocol.offset import format_offset
from gateway.protocol.text import EDGE, edge, shown

HEARTBEAT = b": heartbeat\n\n"
RETRY = b"retry: 1000\n"
PIECE: Final = 64 << 10  # bytes of text that are made into lines at once
LEAST: Final = 48  # bytes of a frame around its event
SHARED: Final = 64 << 10
"""Bytes of an event from which on it is a part of its own of what is sent: many clients may wait for it, behind other
heads or from other offsets, and it is kept for all of them once (`gateway.wire.outflow`)."""
_BASE64_ROOM: Final = LINE // 4 * 3  # bytes that a line of LINE bytes holds in base64
LONG: Final = LINE  # bytes of a batch whose frame is made in pieces, where each reader has one made
LONG_FOR_ALL: Final = {Encoding.TEXT: LONG, Encoding.JSON: 1 << 20, Encoding.BASE64: 1 << 20}
"""The same where one frame is made for all: it costs little more than copies, unless there are lines to make."""


def parts(encoding: Encoding, batch: Batch) -> tuple[bytes, ...]:
    """A batch as the body of a response, in parts, so that its own bytes need not be copied: JSON streams give an array
    of all messages (§9.1.5). If the last event is known to be large, it is a part of its own, wherever a reader begins.
    """
    body, last = batch.body, batch.lengths[-1] if batch.lengths else 0
    apart = (body[:-last], body[-last:]) if SHARED <= last < len(body) else (body,)
    return (b"[", *apart, b"]") if encoding is Encoding.JSON else apart


def gathered(parts: Iterable[bytes | memoryview]) -> list[bytes]:
    """The same bytes in as few parts as may be: those of SHARED bytes or more stay alone."""
    found, small = list[bytes](), list[bytes | memoryview]()
    for part in parts:
        if len(part) < SHARED:
            small.append(part)
            continue
        if any(small):
            found.append(b"".join(small))
        found.append(bytes(part))  # no copy of what are bytes
        small.clear()
    if any(small):
        found.append(b"".join(small))
    return found


def sse(
    encoding: Encoding,
    batch: Batch,
    cursor: bytes,
    *,
    first: bool = False,
    offset: Callable[[int], bytes] = format_offset,
) -> bytes:
    """A batch as one piece of an event stream: its data, if there is any, and always its control event.

    Both carry `id:`, the offset after the data. An EventSource remembers the id of the last event that came whole;
    whichever of the two that was, going on from there neither skips nor repeats. The id stands before `event:`, since
    clients may expect nothing between `event: control` and its data. `first` adds how soon to reconnect; `offset`
    writes positions in the reader's dialect.

    A batch that would make a line of more than LINE bytes becomes several data events, each with its control event.
    """
    if len(batch.body) > _BASE64_ROOM and len(batch.body) > _room(encoding):
        return b"".join(at_once(sse_in_pieces(encoding, batch, cursor, first=first, offset=offset)))
    retry, end, state = RETRY if first else b"", offset(batch.end), _state(batch, cursor)
    if batch.start == batch.end:
        return retry + _control(end, state)
    if encoding is Encoding.JSON:  # messages are stored without line breaks
        return b"%bid: %b\nevent: data\ndata:[%b]\n\n%b" % (retry, end, batch.body, _control(end, state))
    return retry + b"".join(at_once(_data_in_pieces(encoding, batch.before, batch.body, end, state)))


def sse_in_pieces(
    encoding: Encoding,
    batch: Batch,
    cursor: bytes,
    *,
    first: bool = False,
    offset: Callable[[int], bytes] = format_offset,
) -> Generator[None, None, list[bytes]]:
    """Makes what `sse` makes of a batch that is not empty, in `gathered` parts, and yields after every PIECE bytes or
    so.
    """
    room = _room(encoding)
    body, at, gap = memoryview(batch.body), 0, 1 if encoding is Encoding.JSON else 0
    parts: list[bytes | memoryview] = [
        RETRY if first else b""
    ]  # joined once, since a page's bytes are copied each time
    on_the_way, last = b',"streamCursor":"%b"' % cursor, _state(batch, cursor)
    done = 0
    for position, end in cuts(encoding, batch, room):
        after = offset(position)
        here = last if position == batch.end else on_the_way
        if gap:
            events = batch.body if end - at == len(body) else body[at:end]
            parts += (b"id: %b\nevent: data\ndata:[" % after, events, b"]\n\n", _control(after, here))
        else:
            before = edge(batch.before, batch.body[max(0, at - EDGE) : at])
            parts += yield from _data_in_pieces(encoding, before, batch.body[at:end], after, here)
        done += end - at
        at = end + gap
        if done >= 4 * PIECE:  # where there are no lines to make, that takes less
            done = 0
            yield
    if done:
        yield
    return gathered(parts)


def messages_in_pieces(
    encoding: Encoding,
    batch: Batch,
    cursor: bytes,
    *,
    first: bool = False,
    offset: Callable[[int], bytes] = format_offset,
) -> Generator[None, None, list[bytes]]:
    """A batch as `sse` has it, for the `onmessage` of an EventSource, which hears only of events without a name: each
    event of a JSON stream comes alone, with the offset after it, and the control event behind them keeps its name.
    Returns it in `gathered` parts, and yields after every PIECE bytes or so.
    """
    end, state = offset(batch.end), _state(batch, cursor)
    parts = [RETRY if first else b""]
    if not batch.empty and encoding is Encoding.JSON:
        done = 0
        for position, event in singles(batch):
            parts += (b"id: %b\ndata:" % offset(position), event, b"\n\n")
            done += len(event) + LEAST
            if done >= PIECE:
                done = 0
                yield
    elif not batch.empty:
        named = yield from _data_in_pieces(encoding, batch.before, batch.body, end, state)
        return gathered((*parts, named[0].replace(b"\nevent: data\n", b"\n", 1), *named[1:]))
    return gathered((*parts, _control(end, state)))


def _state(batch: Batch, cursor: bytes) -> bytes:
    """The fields of the last control event that say where its reader is."""
    if batch.closed:
        return b',"streamClosed":true'  # no cursor: nobody comes back (§5.8)
    return b',"streamCursor":"%b","upToDate":true' % cursor if batch.up_to_date else b',"streamCursor":"%b"' % cursor


def _room(encoding: Encoding) -> int:
    """The bytes of events that a line may hold."""
    return LINE if encoding is not Encoding.BASE64 else _BASE64_ROOM


def _data_in_pieces(
    encoding: Encoding, before: bytes, payload: bytes, end: bytes, state: bytes
) -> Generator[None, None, list[bytes]]:
    if encoding is Encoding.BASE64:
        return [b"id: %b\nevent: data\ndata:" % end, b64encode(payload), b"\n\n%b" % _control(end, state)]
    payload = shown(before, payload)
    if not payload:
        return [_control(end, state)]
    parts: list[bytes] = []
    at = 0
    while at < len(payload):
        until = at + PIECE
        if payload[until - 1 : until + 1] == b"\r\n":
            until += 1
        # CRLF, CR and LF all end a line of an event stream: no payload may smuggle a field of its own into the frame.
        # By replacing, since a payload of line breaks alone has a million lines.
        text = payload[at:until].replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n ", b"\n  ")
        if text.startswith(b" ") and (not at or payload[at - 1] in b"\r\n"):
            parts.append(b" ")  # a reader drops one space behind the colon
        parts.append(text.replace(b"\n", b"\ndata:"))
        at = until
        if at < len(payload):
            yield
    return [b"id: %b\nevent: data\ndata:" % end, b"".join(parts), b"\n\n%b" % _control(end, state)]


def _control(end: bytes, state: bytes) -> bytes:
    return b'id: %b\nevent: control\ndata:{"streamNextOffset":"%b"%b}\n\n' % (end, end, state)


def chunk(frame: bytes) -> bytes:
    """A frame in HTTP/1.1 chunked coding (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(frame), frame)
