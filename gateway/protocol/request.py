"""Requests: headers and query strings become values, or a ProtocolError that changes nothing.

Header names are lower case, as ASGI gives them; values are bytes, decoded as latin-1 where text is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Final
from urllib.parse import parse_qsl, unquote

from gateway.protocol import json_body
from gateway.protocol.batch import JSON_TYPE, media_type
from gateway.protocol.cursor import parse_cursor
from gateway.protocol.errors import InvalidRequest, SourceNotFound
from gateway.protocol.offset import MAX_POSITION, NOW, START, parse_offset, parse_position
from gateway.protocol.run_path import LONGEST_PART, is_run, part_of

MAX_PATH: Final = 1024  # characters
MAX_RUN_ID: Final = 256
MAX_TOKEN: Final = 1024  # characters of a Producer-Id or a Stream-Seq
MAX_LEASE: Final = 3600  # seconds
UNNUMBERED: Final = -1  # the sequence of a heartbeat, which counts as no request of its producer
DEFAULT_TYPE: Final = "application/octet-stream"
_MAX_SAFE_INTEGER: Final = 2**53 - 1  # §5.2.1: what JavaScript can count to

_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufffd]")
_CONTENT_TYPE: Final = re.compile(rb"[\w-]+/[\w-]+[\x20-\x7e]*", re.ASCII)
_NUMBER: Final = re.compile(rb"[0-9]+")
_DECIMAL: Final = re.compile(rb"0|[1-9][0-9]{0,9}")  # no sign, no leading zero, no exponent (§5.1)
_RFC3339: Final = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)

RawHeaders = Iterable[tuple[bytes, bytes]]


class Live(Enum):
    """How a read goes on at the tail."""

    NO = ""
    LONG_POLL = "long-poll"
    SSE = "sse"


_LIVE: Final[dict[str | None, Live]] = {None: Live.NO, "long-poll": Live.LONG_POLL, "sse": Live.SSE}


@dataclass(slots=True)  # not frozen: made for every append, and that costs three times as much
class Producer:
    """An idempotent producer's claim on one append (§5.2.1)."""

    id: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a new stream branches off (§4.2). `anchor` None: at the source's tail."""

    source: str
    anchor: int | None
    sub_offset: int


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """PUT (§5.1). `content_type` None: a fork that takes its source's. `lease`: a run's, in seconds."""

    path: str
    content_type: str | None
    ttl: int | None
    expires_at: datetime | None
    expires_header: str | None
    closed: bool
    fork: Fork | None
    body: bytes
    lease: int | None = None

    def events(self, content_type: str) -> list[bytes]:
        """The initial events, as the stream's type has them (§9.1.3: an empty array is none)."""
        if not self.body:
            return []
        if media_type(content_type) == JSON_TYPE:
            return json_body.messages(self.body, may_be_empty=True)
        return [self.body]


@dataclass(slots=True)  # not frozen: made for every append, and that costs three times as much
class AppendRequest:
    """POST (§5.2). `media_type` None: nothing to compare. No events: it only closes, or is a run's sign of life.

    `lease`: seconds within which a run's producer promises the next sign of life.
    """

    path: str
    media_type: str | None
    events: list[bytes]
    close: bool = False
    stream_seq: str | None = None
    producer: Producer | None = None
    lease: int | None = None

    @property
    def plain(self) -> bool:
        """Whether it may be merged with its neighbours: nothing in it is judged but the stream's state."""
        return not self.close and self.producer is None and self.stream_seq is None and self.lease is None


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """GET (§5.6–5.8). `position` may be NOW. `last_events`: begin so many events before the tail."""

    path: str
    position: int
    offset: bytes  # as the client wrote it
    live: Live
    last_events: int | None
    cursor: int | None
    if_none_match: bytes | None


def check_path(path: str) -> str:
    """A stream's path, when it may be one. Raises InvalidRequest."""
    limit = MAX_RUN_ID + len("runs/") if path.startswith("runs/") else MAX_PATH
    if len(path) > limit and (len(path) > limit + LONGEST_PART or part_of(path) is None):
        raise InvalidRequest("The stream's path is too long.")
    if _CONTROL.search(path):
        raise InvalidRequest("The stream's path holds control characters or is not UTF-8.")
    return path


def single_headers(headers: RawHeaders, names: frozenset[bytes]) -> dict[bytes, bytes]:
    """Those of the named headers that are present. Raises InvalidRequest when one is there twice."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in names:
            if name in found:
                raise InvalidRequest(f"{name.decode()} is there more than once.")
            found[name] = value
    return found


_APPEND_HEADERS: Final = frozenset(
    (b"content-type", b"stream-closed", b"stream-seq", b"producer-id", b"producer-epoch", b"producer-seq", b"run-lease")
)


def parse_append(path: str, headers: RawHeaders, body: bytes) -> AppendRequest:
    """A POST as an AppendRequest. Raises InvalidRequest, or InvalidJson for a body in JSON mode."""
    found = single_headers(headers, _APPEND_HEADERS)
    close = _is_true(found.get(b"stream-closed"))
    producer = _producer(found)
    stream_seq = _token(b"stream-seq", found)
    lease = _lease(path, found)
    if not body:
        if not close:
            raise InvalidRequest("An empty body appends nothing; with Stream-Closed: true it closes the stream.")
        return AppendRequest(path, None, [], True, stream_seq, producer, lease)
    content_type = found.get(b"content-type", b"")
    if not content_type:
        raise InvalidRequest("Content-Type is required.")
    media = media_type(content_type.decode("latin-1"))
    events = json_body.messages(body) if media == JSON_TYPE else [body]
    return AppendRequest(path, media, events, close, stream_seq, producer, lease)


HEARTBEAT_HEADERS: Final = frozenset((b"run-lease", b"producer-id", b"producer-epoch"))


def parse_heartbeat(run: str, headers: RawHeaders, body: bytes) -> AppendRequest:
    """A POST to a run's `/heartbeat` as an AppendRequest without events: a sign of life. Raises InvalidRequest.

    A producer that tells its epoch, and no sequence, is told when another has taken over.
    """
    if body:
        raise InvalidRequest("A heartbeat has no body; what has one is appended to the run itself.")
    found = single_headers(headers, HEARTBEAT_HEADERS)
    producer_id, epoch = _token(b"producer-id", found), found.get(b"producer-epoch")
    if (producer_id is None) != (epoch is None):
        raise InvalidRequest("Producer-Id and Producer-Epoch go together.")
    producer = None
    if producer_id is not None and epoch is not None:
        producer = Producer(producer_id, _safe_integer(b"producer-epoch", epoch), UNNUMBERED)
    return AppendRequest(run, None, [], producer=producer, lease=_lease(run, found))


_CREATE_HEADERS: Final = frozenset(
    (
        b"content-type",
        b"stream-closed",
        b"stream-ttl",
        b"stream-expires-at",
        b"stream-forked-from",
        b"stream-fork-offset",
        b"stream-fork-sub-offset",
        b"run-lease",
    )
)


def parse_create(path: str, headers: RawHeaders, body: bytes) -> CreateRequest:
    """A PUT as a CreateRequest. Raises InvalidRequest or SourceNotFound."""
    found = single_headers(headers, _CREATE_HEADERS)
    fork = _fork(found)
    given = found.get(b"content-type", b"")
    valid = _CONTENT_TYPE.fullmatch(given) is not None
    content_type = given.decode("latin-1") if valid else (None if fork else DEFAULT_TYPE)
    ttl, expires = found.get(b"stream-ttl"), found.get(b"stream-expires-at")
    if ttl is not None and expires is not None:
        raise InvalidRequest("Stream-TTL and Stream-Expires-At exclude each other.")
    if ttl is not None and not _DECIMAL.fullmatch(ttl):
        raise InvalidRequest("Stream-TTL must be a whole number of seconds.")
    return CreateRequest(
        path=path,
        content_type=content_type,
        ttl=None if ttl is None else int(ttl),
        expires_at=None if expires is None else _timestamp(expires),
        expires_header=None if expires is None else expires.decode("latin-1"),
        closed=_is_true(found.get(b"stream-closed")),
        fork=fork,
        body=body,
        lease=_lease(path, found),
    )


def parse_read(path: str, headers: RawHeaders, query: bytes, *, with_tail: bool) -> ReadRequest:
    """A GET as a ReadRequest. `with_tail`: whether `tail=N` has a meaning here. Raises InvalidRequest."""
    params = _query(query)
    found = single_headers(headers, frozenset((b"last-event-id", b"if-none-match")))
    live = _LIVE.get(params.get("live"))
    if live is None:
        raise InvalidRequest("live must be long-poll or sse.")
    offset = params["offset"].encode("latin-1", "replace") if "offset" in params else None
    resumed = found.get(b"last-event-id") if live is Live.SSE else None
    if resumed:  # the browser's own reconnect: it repeats the URL and says where it stands
        offset = resumed
    if offset is None and live is not Live.NO:
        raise InvalidRequest("A live read requires an offset.")
    position = START if offset is None else parse_offset(offset)
    if position is None:
        raise InvalidRequest("Invalid offset format.")
    last_events = _last_events(params["tail"], position, resumed) if with_tail and "tail" in params else None
    return ReadRequest(
        path=path,
        position=position,
        offset=b"-1" if offset is None else offset,
        live=live,
        last_events=0 if position == NOW else last_events,
        cursor=parse_cursor(params.get("cursor", "").encode("latin-1", "replace")),
        if_none_match=found.get(b"if-none-match"),
    )


def stream_path_of(url_path: str) -> str | None:
    """The stream that a URL's path names: `/v1/stream/<path>` or `/runs/<id>`. None: it names none."""
    if url_path.startswith("/v1/stream/"):
        return url_path[11:] or None
    if url_path.startswith("/runs/"):
        return url_path[1:] if len(url_path) > 6 else None
    return None


def _query(query: bytes) -> dict[str, str]:
    if not query:
        return {}
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=32)
    except ValueError:
        raise InvalidRequest("The query string cannot be read.") from None
    params = dict(pairs)
    for name in ("offset", "live", "tail", "cursor"):
        if name in params and sum(1 for key, _ in pairs if key == name) > 1:
            raise InvalidRequest(f"{name} is there more than once.")
    return params


def _last_events(tail: str, position: int, resumed: bytes | None) -> int | None:
    if not _NUMBER.fullmatch(tail.encode("latin-1", "replace")) or int(tail[:20]) < 1:
        raise InvalidRequest("tail must be a whole number of at least 1.")
    if resumed:
        return None
    if position != START:
        raise InvalidRequest("tail goes with offset=-1 alone.")
    return min(int(tail[:20]), MAX_POSITION)


def _is_true(value: bytes | None) -> bool:
    return value is not None and value.lower() == b"true"  # §4.1: any other value is as if absent


def _token(name: bytes, found: dict[bytes, bytes]) -> str | None:
    value = found.get(name)
    if value is None:
        return None
    text = value.decode("latin-1")
    if not text or len(text) > MAX_TOKEN or _CONTROL.search(text):
        raise InvalidRequest(f"{name.decode()} must be 1 to {MAX_TOKEN} printable characters.")
    return text


def _lease(path: str, found: dict[bytes, bytes]) -> int | None:
    value = found.get(b"run-lease")
    if value is None:
        return None
    if not _DECIMAL.fullmatch(value) or not 1 <= int(value) <= MAX_LEASE:
        raise InvalidRequest(f"Run-Lease must be a whole number of seconds from 1 to {MAX_LEASE}.")
    if not is_run(path):
        raise InvalidRequest("Run-Lease is for runs: streams at runs/<id>.")
    return int(value)


def _producer(found: dict[bytes, bytes]) -> Producer | None:
    epoch, seq = found.get(b"producer-epoch"), found.get(b"producer-seq")
    present = (b"producer-id" in found) + (epoch is not None) + (seq is not None)
    if not present:
        return None
    if present < 3:
        raise InvalidRequest("Producer-Id, Producer-Epoch and Producer-Seq go together.")
    producer_id = _token(b"producer-id", found)
    assert producer_id is not None and epoch is not None and seq is not None
    return Producer(producer_id, _safe_integer(b"producer-epoch", epoch), _safe_integer(b"producer-seq", seq))


def _safe_integer(name: bytes, value: bytes) -> int:
    if not _NUMBER.fullmatch(value) or len(value) > 17 or int(value) > _MAX_SAFE_INTEGER:
        raise InvalidRequest(f"{name.decode()} must be a whole number from 0 to {_MAX_SAFE_INTEGER}.")
    return int(value)


def _fork(found: dict[bytes, bytes]) -> Fork | None:
    source, offset = found.get(b"stream-forked-from"), found.get(b"stream-fork-offset")
    sub_offset = found.get(b"stream-fork-sub-offset")
    if source is None:
        if offset is not None or sub_offset is not None:
            raise InvalidRequest("A fork offset requires Stream-Forked-From.")
        return None
    anchor = None if offset is None else parse_position(offset)
    if offset is not None and anchor is None:
        raise InvalidRequest("Stream-Fork-Offset is not an offset.")
    if sub_offset is not None and not _DECIMAL.fullmatch(sub_offset):
        raise InvalidRequest("Stream-Fork-Sub-Offset must be a whole number.")
    path = stream_path_of(unquote(source.decode("latin-1"), errors="replace"))
    if path is None:
        raise SourceNotFound("Stream-Forked-From must be the path of a stream's URL on this server.")
    return Fork(check_path(path), anchor, int(sub_offset or 0))


def _timestamp(value: bytes) -> datetime:
    match = _RFC3339.fullmatch(value)
    if match is not None:
        fraction = match[1] or b""
        text = value.replace(fraction, fraction[:7], 1).decode().upper()
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # such as the 30th of February, or a year outside the calendar: refused below like any other
    raise InvalidRequest("Stream-Expires-At must be a timestamp of RFC 3339.")
