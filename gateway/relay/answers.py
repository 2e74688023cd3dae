"""Headers on their way: to the upstream, from it to the client who has asked, to those who come back. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gateway.asgi import Headers
from gateway.relay.keys import header
from gateway.relay.rows import Row

# Those that are about the content, and those by which a browser lets a page of another origin read it.
_REPLAYED: Final = frozenset(
    (
        "content-type",
        "cache-control",
        "content-location",
        "location",
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-expose-headers",
        "vary",
    )
)
_NOT_ASKED: Final = frozenset((b"accept-encoding", b"content-length", b"transfer-encoding", b"last-event-id"))
_ABOUT_A_BODY: Final = frozenset((b"content-type", b"range", b"accept", b"if-none-match", b"if-modified-since"))
# Nobody keeps what a POST was answered. What is given again for a GET is one client's, too.
# With names of headers (`no-cache="set-cookie"`) it is said of these alone, and the answer is kept (RFC 9111 §5.2.2).
_KEPT_BY_NOBODY: Final = frozenset((b"no-store", b"no-cache", b"private"))
_QUOTED: Final = re.compile(rb'"[^"]*(?:"|\Z)')
_OURS_ALONE: Final = (b"cache-control", b"private, no-cache")
_NAMED: Final = ("run", "key")
_UNBUFFERED: Final = (b"x-accel-buffering", b"no")
_NDJSON: Final = frozenset(
    (
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/jsonlines",
    )
)


def asked(headers: Headers, length: int | None) -> Headers:
    """A request's headers for the upstream, whose answer has to come as it is: in no coding, and from its start.

    `length`: of its body; None: it has none.
    """
    return [
        *(each for each in headers if each[0] not in _NOT_ASKED),
        (b"accept-encoding", b"identity"),
        *([] if length is None else [(b"content-length", b"%d" % length)]),
    ]


def questioned(headers: Headers) -> Headers:
    """A client's headers for a question whether it may come back."""
    return [
        *(each for each in headers if each[0] not in _NOT_ASKED | _ABOUT_A_BODY),
        (b"accept", b"*/*"),
        (b"accept-encoding", b"identity"),
    ]


def recordable(row: Row, status: int, headers: Headers) -> bool:
    """Whether an answer is one of those that the row records."""
    media = (header(headers, "content-type") or "").partition(";")[0].strip().lower()
    fits = media == "text/event-stream" if row.frames == "sse" else media in _NDJSON
    return 200 <= status < 300 and fits and (header(headers, "content-encoding") or "identity").lower() == "identity"


def first(row: Row, headers: Headers, values: Mapping[str, str]) -> Headers:
    """The headers of the answer for the client who has asked: the upstream's, and those that the row adds."""
    added = _added(row, values)
    names = {name for name, _ in added} | {b"content-length", b"x-accel-buffering"}
    return [*(each for each in headers if each[0].lower() not in names), *added, _UNBUFFERED]


def replayed(row: Row, headers: Headers, values: Mapping[str, str]) -> Headers:
    """The headers of the answer for those who come back. Never its cookies: they were for the first client."""
    wanted = _REPLAYED | set(row.replay)
    added = _added(row, values)
    names = {name for name, _ in added}
    kept = [
        (name.lower(), value)
        for name, value in headers
        if name.lower().decode("latin-1") in wanted and name.lower() not in names
    ]
    if not any(name == b"cache-control" and _is_kept_by_nobody(value) for name, value in (*kept, *added)):
        kept = [*(each for each in kept if each[0] != b"cache-control"), _OURS_ALONE]
    return [*kept, *added, _UNBUFFERED]


def _is_kept_by_nobody(told: bytes) -> bool:
    return any(each.strip().lower() in _KEPT_BY_NOBODY for each in _QUOTED.sub(b"", told).split(b","))


def unanswered(row: Row, values: Mapping[str, str]) -> Headers:
    """The headers for a recording that has ended before there was an answer."""
    head = [(b"content-type", row.media_type.encode()), (b"cache-control", b"no-cache, no-transform")]
    return replayed(row, head, values)


def _added(row: Row, values: Mapping[str, str]) -> Headers:
    added: Headers = []
    for name, text in row.answer.items():
        if any(f"{{{each}}}" in text and each not in values for each in _NAMED):
            continue  # nobody knows it: there was no answer
        for placeholder, value in values.items():
            text = text.replace(f"{{{placeholder}}}", value)
        added.append((name.encode("latin-1"), text.encode("latin-1", "replace")))
    return added
