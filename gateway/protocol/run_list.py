"""Lists of runs, as the gateway's own and a Flue app's share them: `?status=&limit=&cursor=`, and pages."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final

import orjson

from gateway.protocol import base64url
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.json_body import at_once
from gateway.protocol.record import STATUSES, RunRecord, Status, to_json

DEFAULT_LIMIT: Final = 50  # runs in a page
MAX_LIMIT: Final = 500
PIECE: Final = 1 << 20  # bytes of a page that are written at once


def parse_status(text: str | None) -> Status | None:
    """The status that runs must have; None: any. Raises InvalidRequest."""
    if text is None:
        return None
    for status in STATUSES:
        if text == status:
            return status
    raise InvalidRequest(f"status must be one of {', '.join(STATUSES)}.")


def parse_limit(text: str | None) -> int:
    """The most runs that a page may have. Raises InvalidRequest."""
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_LIMIT):
        raise InvalidRequest(f"limit must be a whole number from 1 to {MAX_LIMIT}.")
    return int(text)


def encode_cursor(end: bytes) -> str:
    """The end of a page as a text that the client sends back unchanged."""
    return base64url.encode(end)


def decode_cursor(cursor: str) -> bytes:
    """Decodes what `encode_cursor` returned; b"" for any other text."""
    try:
        return base64url.decode(cursor)
    except ValueError:
        return b""


def page(records: Iterable[RunRecord], next_cursor: str | None) -> bytes:
    """A page as `GET /runs` answers it. `next_cursor` None: it is the last one."""
    return at_once(page_in_pieces(records, next_cursor))


def size(record: RunRecord) -> int:
    """Bytes that a record has in a page, about."""
    return 200 + len(record.metadata or b"")


def page_in_pieces(records: Iterable[RunRecord], next_cursor: str | None) -> Generator[None, None, bytes]:
    """Makes what `page` makes, and yields after every PIECE bytes."""
    parts, done = [b'{"runs":['], 0  # joined once: a page may have 20 MB
    for record in records:
        parts += (to_json(record), b",")
        done += len(parts[-2])
        if done >= PIECE:
            done = 0
            yield
    if len(parts) > 1:
        parts.pop()
    parts.append(b"]}" if next_cursor is None else b'],"nextCursor":%b}' % orjson.dumps(next_cursor))
    return b"".join(parts)
