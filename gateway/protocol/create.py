"""PUT: a stream to be created, perhaps as a fork of another (§5.1, §4.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote

from gateway.protocol import json_body
from gateway.protocol.batch import JSON_TYPE, media_type
from gateway.protocol.content_type import check_content_type
from gateway.protocol.errors import InvalidRequest, SourceNotFound
from gateway.protocol.fields import DECIMAL, RawHeaders, is_true, lease_of, single_headers
from gateway.protocol.offset import parse_position
from gateway.protocol.target import Target

DEFAULT_TYPE: Final = "application/octet-stream"

_RFC3339: Final = re.compile(
    rb"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)

CREATE_HEADERS: Final = frozenset(
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


@dataclass(frozen=True, slots=True)
class Fork:
    """The place where a stream branches off (§4.2): `sub_offset` messages or bytes after `anchor`; None: the tail."""

    source: str
    anchor: int | None
    sub_offset: int


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """PUT (§5.1). `content_type` None: a fork that has its source's. `ttl` and `lease` are seconds.

    `events`: those that `events_in_pieces` has found in the body.
    """

    path: str
    content_type: str | None
    ttl: int | None
    expires_at: datetime | None
    expires_header: str | None
    closed: bool
    fork: Fork | None
    body: bytes
    lease: int | None = None
    most: int | None = None  # initial events
    events: Sequence[bytes] = ()

    def events_in_pieces(self, content_type: str) -> json_body.Events:
        """The initial events of the body, as the stream's type has them (§9.1.3: an empty array is none).

        Gives way after each piece of a long body. Raises InvalidJson, BatchTooLarge.
        """
        if not self.body:
            return []
        if media_type(content_type) == JSON_TYPE:
            found = json_body.quickly(self.body, may_be_empty=True, most=self.most)
            if found is not None:
                return found
            return (yield from json_body.in_pieces(self.body, may_be_empty=True, most=self.most))
        return [self.body]


def parse_create(path: str, headers: RawHeaders, body: bytes, most: int | None = None) -> CreateRequest:
    """A PUT of at most so many events as a CreateRequest. Raises InvalidRequest or SourceNotFound."""
    found = single_headers(headers, CREATE_HEADERS)
    fork = _fork(found)
    given = found.get(b"content-type", b"")
    if given:
        content_type: str | None = check_content_type(given.decode("latin-1"))
    else:
        content_type = None if fork else DEFAULT_TYPE
    ttl, expires = found.get(b"stream-ttl"), found.get(b"stream-expires-at")
    if ttl is not None and expires is not None:
        raise InvalidRequest("Stream-TTL and Stream-Expires-At exclude each other.")
    if ttl is not None and not DECIMAL.fullmatch(ttl):
        raise InvalidRequest("Stream-TTL must be a whole number of seconds.")
    return CreateRequest(
        path=path,
        content_type=content_type,
        ttl=None if ttl is None else int(ttl),
        expires_at=None if expires is None else _timestamp(expires),
        expires_header=None if expires is None else expires.decode("latin-1"),
        closed=is_true(found.get(b"stream-closed")),
        fork=fork,
        body=body,
        lease=lease_of(path, found),
        most=most,
    )


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
    if sub_offset is not None and not DECIMAL.fullmatch(sub_offset):
        raise InvalidRequest("Stream-Fork-Sub-Offset must be a whole number.")
    target = Target.of(unquote(source.decode("latin-1"), errors="replace"))
    if target.stream is None:
        raise SourceNotFound("Stream-Forked-From must be the path of a stream's URL on this server.")
    target.check()
    return Fork(target.stream, anchor, int(sub_offset or 0))


def _timestamp(value: bytes) -> datetime:
    match = _RFC3339.fullmatch(value)
    if match is not None:
        fraction = match[1] or b""
        text = value.replace(fraction, fraction[:7], 1).decode().upper()
        try:
            return datetime.fromisoformat(text).astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # such as the 30th of February, or a year outside the calendar: refused below
    raise InvalidRequest("Stream-Expires-At must be a timestamp of RFC 3339.")
