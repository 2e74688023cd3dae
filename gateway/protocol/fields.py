"""The fields of requests: headers as they came become values, or an InvalidRequest.

Header names are lower case, as ASGI gives them; values are bytes, decoded as latin-1 where text is needed. Accept
(RFC 9110 §12.5.1) and Accept-Encoding (§12.5.3) refuse nobody: what cannot be read of them counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from gateway.protocol.errors import InvalidRequest
from gateway.protocol.target import CONTROL, is_run

MAX_TOKEN: Final = 1024  # characters of a Producer-Id or a Stream-Seq
MAX_LEASE: Final = 3600  # seconds
MAX_SAFE_INTEGER: Final = 2**53 - 1  # §5.2.1: what JavaScript can count to

NUMBER: Final = re.compile(rb"[0-9]+")
DECIMAL: Final = re.compile(rb"0|[1-9][0-9]{0,9}")  # no sign, no leading zero, no exponent (§5.1)

EVENT_STREAM: Final = b"text/event-stream"
_QUALITY: Final = re.compile(rb";[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*(?:;|\Z)", re.IGNORECASE)

RawHeaders = Iterable[tuple[bytes, bytes]]
GivenHeaders = RawHeaders | dict[bytes, bytes]
"""As they came; or a dict, where it is known already that none is there twice."""


def single_headers(headers: GivenHeaders, names: frozenset[bytes]) -> dict[bytes, bytes]:
    """The named headers that are present, if not more. Raises InvalidRequest when one of them is there twice."""
    if isinstance(headers, dict):
        return headers
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in names:
            if name in found:
                raise InvalidRequest(f"{name.decode()} is there more than once.")
            found[name] = value
    return found


def is_true(value: bytes | None) -> bool:
    """True if a flag such as Stream-Closed is set."""
    return value is not None and value.lower() == b"true"  # §4.1: any other value is as if absent


def token(name: bytes, found: dict[bytes, bytes]) -> str | None:
    """A printable text, such as Producer-Id; None: it is absent. Raises InvalidRequest."""
    value = found.get(name)
    if value is None:
        return None
    return check_token(name.decode(), value.decode("latin-1"))


def check_token(name: str, value: object) -> str:
    """A value that is such a text: of Latin-1, as headers are. Raises InvalidRequest."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TOKEN or CONTROL.search(value) or max(value) > "\xff":
        raise InvalidRequest(f"{name} must be 1 to {MAX_TOKEN} printable characters.")
    return value


def lease_of(path: str, found: dict[bytes, bytes]) -> int | None:
    """Seconds of Run-Lease, which only the stream of a run may have; None: it is absent. Raises InvalidRequest."""
    value = found.get(b"run-lease")
    if value is None:
        return None
    return check_lease(path, int(value) if DECIMAL.fullmatch(value) else None, "Run-Lease")


def check_lease(path: str, value: object, name: str = "runLease") -> int:
    """Seconds of a lease for the stream at this path. Raises InvalidRequest."""
    if type(value) is not int or not 1 <= value <= MAX_LEASE:
        raise InvalidRequest(f"{name} must be a whole number of seconds from 1 to {MAX_LEASE}.")
    if not is_run(path):
        raise InvalidRequest(f"{name} is for runs: streams at runs/<id>.")
    return value


def safe_integer(name: bytes, value: bytes) -> int:
    """A whole number that JavaScript can count to, such as Producer-Seq. Raises InvalidRequest."""
    return check_count(name.decode(), int(value) if NUMBER.fullmatch(value) and len(value) <= 17 else None)


def check_count(name: str, value: object) -> int:
    """A value that is such a number. Raises InvalidRequest."""
    if type(value) is not int or not 0 <= value <= MAX_SAFE_INTEGER:
        raise InvalidRequest(f"{name} must be a whole number from 0 to {MAX_SAFE_INTEGER}.")
    return value


# What a client accepts


def accept_of(headers: RawHeaders) -> bytes:
    """The value of Accept, which may stand on several lines; empty if it is absent."""
    return b",".join([value for name, value in headers if name == b"accept"])


def accept_encoding_of(headers: RawHeaders) -> bytes:
    """The value of Accept-Encoding, which may stand on several lines; empty if it is absent."""
    return b",".join([value for name, value in headers if name == b"accept-encoding"])


def coding_for(accept_encoding: bytes, offered: Sequence[bytes]) -> bytes | None:
    """The content coding, of those `offered`, that a client wants most; of several that it wants as much, the first.
    None: none of them, or the bytes as they are rather.
    """
    wanted = dict(_range(part) for part in accept_encoding.split(b","))
    any_other = wanted.get(b"*", 0.0)
    best, most = None, 0.0
    for coding in offered:
        quality = wanted.get(coding, any_other)
        if quality > most:
            best, most = coding, quality
    return best if most >= wanted.get(b"identity", 0.0) else None


def only_events(accept: bytes) -> bool:
    """True for a browser's EventSource, and for clients that say the same: they accept nothing but event streams."""
    return accept.strip().lower() == EVENT_STREAM


def prefers_events(accept: bytes) -> bool:
    """True if event streams are named, and no other type is wanted as much. What goes for every type (`*/*`, `text/*`)
    may be wanted as much, since it names none.
    """
    if EVENT_STREAM not in accept.lower():
        return False
    wanted, others, any_other = 0.0, 0.0, 0.0
    for part in accept.split(b","):
        media, quality = _range(part)
        if media == EVENT_STREAM:
            wanted = max(wanted, quality)
        elif media.endswith(b"/*"):
            any_other = max(any_other, quality)
        else:
            others = max(others, quality)
    return wanted > others and wanted >= any_other


def _range(part: bytes) -> tuple[bytes, float]:
    media = part.partition(b";")[0].strip().lower()
    if not media:
        return b"", 0.0
    found = _QUALITY.search(part)
    return media, 1.0 if found is None else float(found[1])
