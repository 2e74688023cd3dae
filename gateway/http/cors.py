"""The policy for pages of other origins (the Fetch standard, §3.3), and the headers that every answer carries (§12.7).

Pages that may read may also write. What they may do is decided by a credential in a header or in the address, never by
a cookie, so no page can act in the name of the person who looks at it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.asgi import Headers, Scope
from gateway.protocol.fields import GivenHeaders
from gateway.wire.answers import header_lines

EVERY: Final = "*"
MOST_AGE: Final = 7200  # seconds that a browser may remember a preflight; Chromium allows no more

EXPOSED: Final = (
    b"etag, location, retry-after, accept-encoding, www-authenticate, x-request-id, gateway-machine,"
    b" stream-next-offset, stream-cursor, stream-up-to-date, stream-closed, stream-ttl, stream-expires-at,"
    b" stream-sse-data-encoding, producer-epoch, producer-seq, producer-expected-seq, producer-received-seq,"
    b" run-cancel-requested"
)
_HEADERS: Final = (
    b"content-type, authorization, if-none-match, last-event-id, stream-next-offset, stream-seq, stream-ttl,"
    b" stream-expires-at, stream-closed, stream-forked-from, stream-fork-offset, stream-fork-sub-offset,"
    b" producer-id, producer-epoch, producer-seq, run-lease"
)
_ASKED: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:, ?[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")  # RFC 9110 §5.1
_MOST_ASKED: Final = 2048  # bytes of names of headers
_NOSNIFF: Final = (b"x-content-type-options", b"nosniff")


@dataclass(frozen=True, slots=True)
class Common:
    """Headers that every answer carries; `lines` has them as they are on the wire."""

    headers: Headers
    lines: bytes

    @staticmethod
    def of(headers: Headers) -> Common:
        return Common(headers, header_lines(headers))


class Cors:
    """The policy of one server. `origins`: those whose pages may read; `*` for all; there may be none."""

    def __init__(self, origins: Sequence[str]) -> None:
        allowed = [_allowing(origin.encode()) for origin in origins]
        every = EVERY in origins
        # A page that may not read a run may not embed it as an image or a script either: no byte gets into its process.
        embedding = (b"cross-origin-resource-policy", b"cross-origin" if every else b"same-origin")
        self._several = len(origins) > 1
        # With several origins the answer depends on who asks, which caches have to be told (Fetch, §3.3.7).
        constant: Headers = [(b"vary", b"origin")] if self._several else [header for each in allowed for header in each]
        self.constant: Final = Common.of([_NOSNIFF, embedding, *constant])
        self._of_origin = {
            origin.encode(): Common.of([_NOSNIFF, embedding, *constant, *_allowing(origin.encode())])
            for origin in origins
        }

    def common(self, headers: GivenHeaders) -> Common:
        """The headers of the answer to a request with these headers."""
        if not self._several:
            return self.constant
        if isinstance(headers, dict):
            origin = headers.get(b"origin", b"")
        else:
            origin = next((value for name, value in headers if name == b"origin"), b"")
        return self._of_origin.get(origin, self.constant)


def _allowing(origin: bytes) -> Headers:
    return [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED)]


def preflight(scope: Scope) -> Headers:
    """The headers of an answer to OPTIONS. The headers that are asked for are allowed: libraries for traces and retries
    add some to any request, and none of them means anything here that a page could do harm with. For origins that are
    not allowed the browser stops at what is not there: `access-control-allow-origin`.
    """
    asked = next((value for name, value in scope["headers"] if name == b"access-control-request-headers"), b"")
    more = b", " + asked if len(asked) <= _MOST_ASKED and _ASKED.fullmatch(asked) else b""
    return [
        (b"access-control-allow-methods", b"GET, HEAD, PUT, POST, DELETE, OPTIONS"),
        (b"access-control-allow-headers", _HEADERS + more),
        (b"access-control-max-age", b"%d" % MOST_AGE),
    ]


def is_preflight(scope: Scope) -> bool:
    """True for a browser's question whether a page may make a request."""
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )
