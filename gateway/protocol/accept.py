"""Accept (RFC 9110 §12.5.1): whether a client would rather be sent an event stream than what a read gives otherwise.
Accept-Encoding (§12.5.3): in which content coding it would rather be sent that.

Pure. A value that cannot be read counts for nothing: nobody is refused for what it accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

EVENT_STREAM: Final = b"text/event-stream"

_QUALITY: Final = re.compile(rb";[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*(?:;|\Z)", re.IGNORECASE)


def accept_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The value of Accept, which may stand on several lines; empty if it is absent."""
    return b",".join([value for name, value in headers if name == b"accept"])


def accept_encoding_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
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
