"""Response headers for each mode (§5, §10, §12.7), as ASGI takes them: names in lower case, values as bytes."""

from __future__ import annotations

from typing import Final

from gateway.protocol.batch import Batch, Encoding, Stream
from gateway.protocol.content_type import content_type_header
from gateway.protocol.offset import format_offset

Headers = list[tuple[bytes, bytes]]

JSON: Final = (b"content-type", b"application/json")
NO_STORE: Final = (b"cache-control", b"no-store")
# Private: runs hold what agents said to their users, which no shared cache may keep (§10.1), unless all may read it. An
# answer that ends at the tail of an open stream has to be revalidated, which its ETag makes cheap: a reader must see
# its own writes.
_CACHEABLE: Final = (b"cache-control", b"private, max-age=60, stale-while-revalidate=300")
_REVALIDATE: Final = (b"cache-control", b"private, no-cache")
_LONG: Final = (b"cache-control", b"public, max-age=60, stale-while-revalidate=300")
_SHORT: Final = (b"cache-control", b"public, max-age=1")
# Of catch-up: at the same URL, a client may get an event stream instead, or the page in a content coding.
_VARY: Final = (b"vary", b"accept, accept-encoding")
_OF_UNCHANGED: Final = (b"cache-control", b"vary")
_TRUE: Final = b"true"
UP_TO_DATE: Final = (b"stream-up-to-date", _TRUE)
CLOSED: Final = (b"stream-closed", _TRUE)


def etag(stream: Stream, start: bytes, end: int, closed: bool) -> bytes:
    """`{internal_stream_id}:{start}:{end}` (§10.1), with `:c` once closed, since the answer then has other headers."""
    return b'"%d:%b:%b%b"' % (stream.id, start, format_offset(end), b":c" if closed else b"")


def coded(tag: bytes, coding: bytes) -> bytes:
    """The ETag of the same content in a coding: other bytes, so another strong tag (RFC 9110 §8.8.3)."""
    return b'%b:%b"' % (tag[:-1], coding)


def etag_matches(if_none_match: bytes, tag: bytes) -> bool:
    """RFC 9110 §13.1.2, compared weakly."""
    candidates = [candidate.strip().removeprefix(b"W/") for candidate in if_none_match.split(b",")]
    return tag in candidates or b"*" in candidates


def of_stream(stream: Stream) -> Headers:
    """HEAD (§5.5)."""
    headers = [
        (b"content-type", content_type_header(stream.content_type)),
        (b"stream-next-offset", format_offset(stream.tail)),
        NO_STORE,
        (b"etag", etag(stream, b"-1", stream.tail, stream.closed)),
    ]
    if stream.closed:
        headers.append(CLOSED)
    if stream.ttl is not None:
        headers.append((b"stream-ttl", b"%d" % stream.ttl))
    elif stream.expires_at is not None:
        headers.append((b"stream-expires-at", stream.expires_at.encode("latin-1")))
    return headers


def of_batch(stream: Stream, batch: Batch, start: bytes, *, cursor: int | None, now: bool) -> Headers:
    """A response with data (§5.6, §5.7). `now`: the offset was `now`, so no cache may keep where the tail was (§8)."""
    headers = [
        (b"content-type", content_type_header(stream.content_type)),
        (b"stream-next-offset", format_offset(batch.end)),
    ]
    if cursor is None:
        headers.append(_VARY)
    if now:
        headers.append(NO_STORE)
    else:
        settled = batch.closed or not batch.up_to_date
        headers += [
            _CACHEABLE if settled else _REVALIDATE,
            (b"etag", etag(stream, start, batch.end, batch.closed)),
        ]
    return headers + of_state(batch, cursor)


def in_coding(answer: Headers, coding: bytes) -> Headers:
    """The headers of `of_batch` for the same content in a coding."""
    return [
        *((name, coded(value, coding) if name == b"etag" else value) for name, value in answer),
        (b"content-encoding", coding),
    ]


def shared(answer: Headers, *, live: bool) -> Headers:
    """An answer's headers where a cache may give it to others (§10.1).

    What a long-poll was given never changes, and its reader goes on from there. That nothing came holds for a second,
    in which all who have waited hear of it; and what was appended since may be missing from catch-up for as long.
    """
    kept = {_CACHEABLE: _LONG, _REVALIDATE: _LONG if live else _SHORT, NO_STORE: _SHORT}
    return [kept.get(header, header) for header in answer]


def of_unchanged(answer: Headers, tag: bytes) -> Headers:
    """304: what of an answer's headers a cache needs to go on with what it has (RFC 9110 §15.4.5)."""
    return [(b"etag", tag), *(header for header in answer if header[0] in _OF_UNCHANGED and header != NO_STORE)]


def of_state(batch: Batch, cursor: int | None) -> Headers:
    """The headers that say whether a batch ends at the tail or at the end of the stream; and a live read's cursor."""
    headers: Headers = []
    if batch.up_to_date:
        headers.append(UP_TO_DATE)
    if batch.closed:
        headers.append(CLOSED)
    if cursor is not None:
        headers.append((b"stream-cursor", b"%d" % cursor))
    return headers


def of_nothing_new(position: int, closed: bool, cursor: int) -> Headers:
    """A long-poll that ends without data (§5.7), at the reader's own position (law 3)."""
    headers = [(b"stream-next-offset", format_offset(position)), UP_TO_DATE, NO_STORE]
    headers.append(CLOSED if closed else (b"stream-cursor", b"%d" % cursor))
    return headers


def of_end(offset: bytes) -> Headers:
    """Headers of the 204 that ends an EventSource which has read all of a closed stream (HTML, §9.2.3)."""
    return [(b"stream-next-offset", offset), CLOSED, NO_STORE]


def of_sse(encoding: Encoding) -> Headers:
    """An event stream (§5.8). `x-accel-buffering` and the identity coding keep proxies from holding it back."""
    headers = [
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ]
    if encoding is Encoding.BASE64:
        headers.append((b"stream-sse-data-encoding", b"base64"))
    return headers
