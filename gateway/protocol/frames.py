"""Batches as bytes: SSE frames (§5.8) and response bodies (§5.6, §9.1.5). One encoding serves every reader."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

from gateway.protocol.batch import LINE, Batch, Encoding, cuts
from gateway.protocol.offset import format_offset
from gateway.protocol.read import TOLD
from gateway.protocol.text import EDGE, edge, shown

HEARTBEAT = b": heartbeat\n\n"
RETRY = b"retry: 1000\n"


def body(encoding: Encoding, batch: Batch) -> bytes:
    """A batch as the body of a response: JSON streams give an array of all messages (§9.1.5)."""
    return b"[%b]" % batch.body if encoding is Encoding.JSON else batch.body


def parts(encoding: Encoding, batch: Batch) -> tuple[bytes, ...]:
    """The body of a response in parts, so that the batch's own bytes need not be copied."""
    return (b"[", batch.body, b"]") if encoding is Encoding.JSON else (batch.body,)


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
    retry = RETRY if first else b""
    if batch.closed:
        state = b',"streamClosed":true'  # no cursor: nobody comes back (§5.8)
    elif batch.up_to_date:
        state = b',"streamCursor":"%b","upToDate":true' % cursor
    else:
        state = b',"streamCursor":"%b"' % cursor
    if batch.empty:
        return retry + _control(offset(batch.end), state)
    room = LINE if encoding is not Encoding.BASE64 else LINE // 4 * 3
    if len(batch.body) <= room:
        return retry + _data(encoding, batch.before, batch.body, offset(batch.end), state)
    body, at, gap = memoryview(batch.body), 0, 1 if encoding is Encoding.JSON else 0
    parts: list[bytes | memoryview] = [retry]  # joined once, since a page's bytes are copied each time
    for position, end in cuts(encoding, batch, room):
        after = offset(position)
        here = state if position == batch.end else b',"streamCursor":"%b"' % cursor
        if gap:
            parts += (b"id: %b\nevent: data\ndata:[" % after, body[at:end], b"]\n\n", _control(after, here))
        else:
            before = edge(batch.before, batch.body[max(0, at - EDGE) : at])
            parts.append(_data(encoding, before, batch.body[at:end], after, here))
        at = end + gap
    return b"".join(parts)


def _data(encoding: Encoding, before: bytes, payload: bytes, end: bytes, state: bytes) -> bytes:
    if encoding is Encoding.TEXT:
        payload = shown(before, payload)
        if not payload:
            return _control(end, state)
    lines = _data_lines(encoding, payload)
    return b"id: %b\nevent: data\n%b\n%b" % (end, lines, _control(end, state))


def _control(end: bytes, state: bytes) -> bytes:
    return b'id: %b\nevent: control\ndata:{"streamNextOffset":"%b"%b}\n\n' % (end, end, state)


def closed_already(position: int, offset: Callable[[int], bytes] = format_offset) -> bytes:
    """The frame for an EventSource that reconnects at the end of a closed stream: it tells the end again. See TOLD."""
    end = offset(position)
    return b'%bid: %b%b\nevent: control\ndata:{"streamNextOffset":"%b","streamClosed":true}\n\n' % (
        RETRY,
        end,
        TOLD,
        end,
    )


def chunk(frame: bytes) -> bytes:
    """A frame in HTTP/1.1 chunked coding (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def _data_lines(encoding: Encoding, payload: bytes) -> bytes:
    if encoding is Encoding.JSON:
        return b"data:[%b]\n" % payload  # messages are stored without line breaks
    if encoding is Encoding.BASE64:
        return b"data:%b\n" % b64encode(payload)
    # CRLF, CR and LF all end a line of an event stream: no payload may smuggle a field of its own into the frame.
    # By replacing, since a payload of line breaks alone has a million lines. A reader drops one space behind the colon.
    text = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n ", b"\n  ")
    first = b"data: " if text.startswith(b" ") else b"data:"
    return b"%b%b\n" % (first, text.replace(b"\n", b"\ndata:"))
