"""Heads of requests: the rules of RFC 9112 that the parser leaves to us, what a head says of its body, and those that
have come before.

Writers send the same headers again and again, each to many streams. So a head is kept without its first line, which is
taken apart here, and need not be parsed again. That is exact: the parser has read the same bytes behind such a line,
and what it makes of headers does not depend on the URL before them.

Pure: heads come from `gateway.wire.intake`, and `gateway.wire.transport` answers what is raised here.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

import httptools

from gateway.protocol.errors import CodingNotSupported, MalformedHttp

Header = tuple[bytes, bytes]

_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+,;=%-]*)(?::([0-9]*))?", re.ASCII)  # RFC 3986, §3.2
_LAST_PORT: Final = 65_535  # of TCP, to which the port of an http URL belongs (RFC 9110 §4.2.1)

MOST: Final = 1_024  # heads that are kept
LONGEST: Final = 1_024  # bytes of such a head
FIELDS: Final = 24  # headers of it
_VERSION: Final = b" HTTP/1.1"
_LINE: Final = b"\r\n"
_END: Final = b"\r\n\r\n"


@lru_cache(maxsize=256)
def is_host(value: bytes) -> bool:
    """True if a Host header may have this value. An empty one is allowed (RFC 9112 §3.2)."""
    found = _HOST.fullmatch(value)
    return found is not None and _is_port(found[1] or b"")


def _is_port(digits: bytes) -> bool:
    significant = digits.lstrip(b"0")
    return len(significant) <= len(str(_LAST_PORT)) and int(significant or b"0") <= _LAST_PORT


def body_length(headers: Iterable[Header]) -> int:
    """Bytes of the body, if the head says so; 0 for none, and for a chunked one."""
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def check(version: str, headers: Iterable[Header]) -> None:
    """Raises MalformedHttp for a Host that is missing, repeated or invalid (RFC 9112 §3.2), and for a body without a
    certain end (§6.1, §6.3); CodingNotSupported for a body that is encoded before it is chunked (§6.1).
    """
    hosts = 0
    codings = b""
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if hosts > 1 or not is_host(value):
                raise MalformedHttp("There must be one Host header.")
        elif name == b"transfer-encoding":
            codings += b"," + value
    if not hosts and version != "1.0":
        raise MalformedHttp("There must be one Host header.")
    if codings:
        names = [coding.strip().lower() for coding in codings.split(b",") if coding.strip()]
        if version == "1.0" or names[-1:] != [b"chunked"]:
            raise MalformedHttp("The last of Transfer-Encoding must be chunked, and HTTP/1.0 has none.")
        if len(names) > 1:
            raise CodingNotSupported("Transfer-Encoding must be chunked alone.")


def target_of(url: bytes) -> tuple[str, bytes, bytes, bytes | None]:
    """A request's target: its path, the path as it was written, the query, and the authority if the target names one,
    which then counts in the place of Host (RFC 9112 §3.2.2). Raises MalformedHttp.
    """
    try:
        parsed = httptools.parse_url(url)
        raw: bytes = parsed.path or b"/"  # RFC 9110 §4.2.3
        path = raw.decode("ascii")
    except (httptools.HttpParserInvalidURLError, UnicodeError):
        raise MalformedHttp("The target is none.") from None
    authority: bytes | None = None
    if parsed.schema is not None:
        # The host as it was written: without its user, which no header may hold (RFC 9110 §4.2.4).
        authority = url.partition(b"://")[2]
        authority = re.split(rb"[/?#]", authority, maxsplit=1)[0].rpartition(b"@")[2]
        if not authority or not is_host(authority):
            raise MalformedHttp("The target's host is none.")
    return unquote(path) if "%" in path else path, raw, parsed.query or b"", authority


def with_host(headers: list[Header], authority: bytes) -> list[Header]:
    """The headers with this Host in the place of their own."""
    return [(b"host", authority), *(header for header in headers if header[0] != b"host")]


def without_upgrade(method: bytes, url: bytes, version: str, headers: Iterable[Header]) -> bytes:
    """A head written anew, in which Connection does not name Upgrade."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            value = b",".join([token for token in value.split(b",") if token.strip().lower() != b"upgrade"])
        lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join(lines) + b"\r\n\r\n"


class Head(NamedTuple):
    """A parsed head without its first line. `length`: bytes of the body."""

    headers: dict[bytes, bytes]
    length: int
    keep_alive: bool


class KnownHeads:
    """The heads that this process knows: those that came last are kept."""

    def __init__(self) -> None:
        self._heads: OrderedDict[bytes, Head] = OrderedDict()

    def find(self, packet: bytes) -> tuple[bytes, Head, bytes] | None:
        """URL, head and body of a packet that is one whole POST with a known head; None: it has to be parsed."""
        line, end = packet.find(_LINE), packet.find(_END)
        head = self._heads.get(packet[line:end])
        if head is None or len(packet) != end + 4 + head.length or not packet.startswith(_VERSION, line - 9):
            return None
        return packet[5 : line - 9], head, packet[end + 4 :]

    def learn(self, packet: bytes, head: Head, body: bytes) -> None:
        """Remembers what the parser has read of a packet that was one whole POST."""
        line, end = packet.find(_LINE), packet.find(_END)
        if end - line > LONGEST or len(head.headers) > FIELDS:
            return
        if packet[end + 4 :] != body or not packet.startswith(_VERSION, line - 9):
            return
        self._heads[packet[line:end]] = head
        if len(self._heads) > MOST:
            self._heads.popitem(last=False)
