"""Which requests belong to one conversation: rows such as `/agents/chat/{id}`, and the id that a path names.

Pure. A row takes its path and everything below it. Other spellings of a path, which a lenient application takes for the
same, are taken as well: they would else be a way past the owner.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.owner.errors import BadOwned

Busy = Callable[[Sequence[bytes]], Awaitable[Collection[bytes]]]
"""Which of these conversations, by their ids, the application is working on. Raises Unavailable, BadGateway."""

_ID: Final = b"{id}"
_SLASH: Final = re.compile(rb"[/\\]+")  # `\` is a `/` in URLs of WHATWG's, which applications in JavaScript read
_FORM: Final = re.compile(r"/[^\s?#]*")


@dataclass(frozen=True, slots=True)
class Row:
    """Conversations at a path. `name` stands in the database: rows of the same name are the same conversations.

    `pattern`: such as `/agents/chat/{id}`, with `{id}` for one whole segment. An id is that segment, percent-decoded
    once (`a%2Fb` is `a/b`), as bytes. `busy`: a path with `{id}` that is asked of the application before a conversation
    is given away: 200 is "working"; every other answer of 2xx, and 404, is "idle". `wake`: a path with `{id}` for which
    the application of a new owner is asked (by GET) when the one before has died, so that it goes on by itself.
    """

    name: str
    pattern: str
    busy: str | None = None
    wake: str | None = None

    def __post_init__(self) -> None:
        for path in (self.pattern, self.busy, self.wake):
            if path is not None and (_FORM.fullmatch(path) is None or path.split("/").count("{id}") != 1):
                raise BadOwned(f"{path}: a row is a path with {{id}} for one segment, such as /agents/chat/{{id}}")

    @property
    def segments(self) -> tuple[bytes, ...]:
        """The pattern as it is compared."""
        return _segments(self.pattern.encode())


@dataclass(frozen=True, slots=True)
class Key:
    """A conversation. `digest` is its key in the database."""

    row: Row
    id: bytes
    digest: bytes
    tenant: str = ""

    @classmethod
    def of(cls, row: Row, id: bytes, tenant: str = "") -> Key:
        text = b"\0".join([tenant.encode(), row.name.encode(), id])
        return cls(row, id, hashlib.sha256(text).digest(), tenant)

    def __str__(self) -> str:
        return f"{self.row.name} {self.id.decode(errors='replace')}"


class Table:
    """Rows in the order in which they are tried."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self.named = {row.name: row for row in rows}
        self._forms = [(row, row.segments) for row in rows]

    def find(self, raw_path: bytes) -> Key | None:
        """The conversation that a request is about, by its path as it came, escaped; None: none."""
        segments = _segments(raw_path)
        for row, form in self._forms:
            if len(form) > len(segments):
                continue
            id = b""
            for part, segment in zip(form, segments, strict=False):
                if part == _ID:
                    id = segment
                elif part.lower() != segment.lower():
                    break
            else:
                return Key.of(row, id)
        return None


def rows_of(owned: str | None) -> tuple[Row, ...]:
    """The rows of GATEWAY_OWNED: paths with commas between. Raises BadOwned."""
    paths = [path.strip() for path in (owned or "").split(",") if path.strip()]
    rows = tuple(Row(path, path) for path in paths)
    if len({row.segments for row in rows}) < len(rows):
        raise BadOwned(f"{owned}: a row stands there twice")
    return rows


def _segments(raw_path: bytes) -> tuple[bytes, ...]:
    """A path's segments, decoded; without empty ones, and with dots resolved as the application may resolve them."""
    found: list[bytes] = []
    for raw in _SLASH.split(raw_path):
        segment = unquote_to_bytes(raw)
        if segment == b"..":
            found[-1:] = []
        elif segment not in (b"", b"."):
            found.append(segment)
    return tuple(found)
