"""The requests that belong to one conversation: rows such as `/agents/chat/{id}`, and the id that a path names.

Pure. A row takes its path and everything below it. Other spellings of a path, which a lenient application takes for the
same, are taken as well: they would else be a way past the owner. So have ids that some application may take for each
other one key: two conversations may share an owner, but one may not have two. A path that is one conversation's to some
applications, and another's to others, is refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from unicodedata import normalize
from urllib.parse import quote, unquote_to_bytes

from gateway.owner.errors import AmbiguousPath, BadOwned

PAGE: Final = 200
"""Conversations that are asked about at once."""

_ID: Final = b"{id}"
_SPLITS: Final = "/\\"
_SLASH: Final = re.compile(rb"[/\\]+")  # `\` is a `/` in URLs of WHATWG's, which applications in JavaScript read
# URLs of WHATWG's have a host behind two slashes in front; a segment of dots may be resolved, or be one like others.
_HOST: Final = re.compile(rb"[/\\]{2,}[^/\\]*")
_DOTS: Final = re.compile(rb"(?:\A|[/\\])(?:\.|%2e){1,2}(?=[/\\;]|%3b|\Z)", re.IGNORECASE)
_FORM: Final = re.compile(r"/[^\s?#]*")
_PLAIN: Final = re.compile(rb"[\w.~-]+")
_REST: Final = re.compile("[;\0].*", re.DOTALL)  # parameters of a segment (RFC 3986 §3.3), which a servlet leaves out
_LOST: Final = re.compile("\ufffd+")  # what was no UTF-8, in decoders that put one or more for it


class Work(Protocol):
    """The work of a row's conversations, beyond their requests."""

    async def busy(self, ids: Sequence[bytes]) -> Collection[bytes]:
        """The conversations among these that are being worked on, or were when their owner died. At most `PAGE` at
        once. Raises ProtocolError, and then is called again.
        """
        ...

    async def revive(self, ids: Sequence[bytes]) -> None:
        """Has this Machine's application go on with these conversations, which were busy when their owner died. Raises
        ProtocolError, and then is called again.
        """
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """Conversations at a path. `name` stands in the database: rows of the same name are the same conversations.

    `pattern`: such as `/agents/chat/{id}`, with `{id}` for one whole segment. An id is that segment, percent-decoded
    once (`a%2Fb` is `a/b`), as bytes. `busy`: a path with `{id}` that is asked of the application before a conversation
    is given away: 200 is "working", as is 5xx, all else is "idle". `wake`: a path with `{id}` that is
    asked for (by GET) where the next owner has to be told to go on with what was busy when its owner died. `work` says
    both in another way, and goes before them. `clean`: its clients take a clean end of an event stream for a reason to
    come back, and not for the end; others are cut off. `find`: the id in a path as it came, escaped, for an application
    that is known to find it in another way.
    """

    name: str
    pattern: str
    busy: str | None = None
    wake: str | None = None
    work: Work | None = None
    clean: bool = False
    find: Callable[[bytes], bytes | None] | None = None

    def __post_init__(self) -> None:
        for path in (self.pattern, self.busy, self.wake):
            if path is not None and (_FORM.fullmatch(path) is None or path.split("/").count("{id}") != 1):
                raise BadOwned(f"{path}: a row is a path with {{id}} for one segment, such as /agents/chat/{{id}}")

        if self.wake is not None and self.busy is None:
            raise BadOwned(f"{self.name}: `wake` needs `busy`: it is for what was being worked on")

    @property
    def segments(self) -> tuple[bytes, ...]:
        """The pattern as it is compared."""
        return _segments(self.pattern.encode())


def filled(path: str, id: bytes) -> bytes:
    """A path with an id in the place of `{id}`."""
    return path.replace("{id}", quote(id, safe="")).encode()


@dataclass(frozen=True, slots=True)
class Key:
    """A conversation. `digest` is its key in the database, and that of ids which some app takes for this one."""

    row: Row
    id: bytes
    digest: bytes
    tenant: str = ""

    @classmethod
    def of(cls, row: Row, id: bytes, tenant: str = "") -> Key:
        text = b"\0".join([tenant.encode(), row.name.encode(), _alike(id) if row.find is None else id])
        return cls(row, id, hashlib.sha256(text).digest(), tenant)

    def of_tenant(self, tenant: str) -> Key:
        """The conversation of this id that a tenant has. Where the application is known, and knows none: this one."""
        return self if self.row.find is not None else Key.of(self.row, self.id, tenant)

    def __str__(self) -> str:
        return f"{self.row.name} {self.id.decode(errors='replace')}"


class Table:
    """Rows in the order in which they are tried."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = tuple(rows)
        self.named = {row.name: row for row in rows}
        self._forms = [(row, row.segments) for row in rows]

    def find(self, raw_path: bytes) -> Key | None:
        """The conversation that a request is about, by its path as it came, escaped; None: none.

        Raises AmbiguousPath.
        """
        found = self._read(raw_path)
        if found is None and b"%" in raw_path:  # an application may decode a path before it splits it
            found = self._read(quote(unquote_to_bytes(raw_path), safe=_SPLITS).encode())
        return found

    def _read(self, raw_path: bytes) -> Key | None:
        """By all ways to read a path."""
        found = self._find(raw_path)
        host, dots = _HOST.match(raw_path), _DOTS.search(raw_path)
        if host is None and dots is None:
            return found
        paths = [raw_path] if host is None else [raw_path, raw_path[host.end() :]]
        others = [self._find(path, own=False, resolved=at) for path in paths for at in (True, False)]
        named = {key.digest: key for key in (found, *others) if key is not None}
        if len(named) > 1:
            raise AmbiguousPath
        return next(iter(named.values()), None)

    def _find(self, raw_path: bytes, *, own: bool = True, resolved: bool = True) -> Key | None:
        """`own`: also by rows that find an id in a way of their own."""
        segments = _segments(raw_path, resolved=resolved)
        for row, form in self._forms:
            if row.find is not None:
                id_found = row.find(raw_path) if own else None
                if id_found is not None:
                    return Key.of(row, id_found)
                continue
            if len(form) > len(segments):
                continue
            id = b""
            for part, segment in zip(form, segments, strict=False):
                if part == _ID:
                    id = segment
                elif part.lower() != segment.partition(b";")[0].lower():
                    break
            else:
                return Key.of(row, id)
        return None


def rows_of(owned: str | None, busy: str | None = None) -> tuple[Row, ...]:
    """The rows of GATEWAY_OWNED: paths with commas between. Raises BadOwned.

    `busy`: what lies below each of them and is asked whether it is being worked on (GATEWAY_OWNED_BUSY).
    """
    paths = [path.strip() for path in (owned or "").split(",") if path.strip()]
    rows = tuple(Row(path, path, busy and f"{path.rstrip('/')}/{busy.lstrip('/')}") for path in paths)
    if len({row.segments for row in rows}) < len(rows):
        raise BadOwned(f"{owned}: a row stands there twice")
    return rows


def _segments(raw_path: bytes, *, resolved: bool = True) -> tuple[bytes, ...]:
    """A path's segments, decoded and without empty ones. `resolved`: dots lead away, also a servlet's (`..;x`)."""
    found: list[bytes] = []
    for raw in _SLASH.split(raw_path):
        segment = unquote_to_bytes(raw)
        plain = segment.partition(b";")[0] if resolved else segment
        if resolved and plain == b"..":
            found[-1:] = []
        elif segment and not (resolved and plain == b"."):
            found.append(segment)
    return tuple(found)


def _alike(id: bytes) -> bytes:
    """The form that ids share which some application takes for one another."""
    if _PLAIN.fullmatch(id):
        return id.lower()
    text = unquote_to_bytes(id).decode(errors="replace")  # some decode twice
    return _LOST.sub("\ufffd", _REST.sub("", normalize("NFC", text.casefold()))).strip().encode()
