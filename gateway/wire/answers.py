"""Whole responses in one write, past ASGI's two messages, which check every character of every header again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.fanout.follower import EXTENSION
from gateway.protocol.frames import SHARED
from gateway.wire.slim import Cycle

if TYPE_CHECKING:
    from gateway.wire.transport import DirectProtocol

_REASON: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def own_reason(status: int, reason: bytes) -> dict[str, bytes]:
    """The further fields of a head's message: this phrase, unless it is the standard's, or none of HTTP's."""
    known = STATUS_LINE.get(status) == b"HTTP/1.1 %d %b\r\n" % (status, reason)
    return {} if known or not _REASON.fullmatch(reason) else {"reason": reason}


class _Joined:
    """The lines of the server's own headers, of which uvicorn makes a new list once a second, for the date; and how an
    answer begins that a plain append gets.
    """

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = self._accepted = b""

    def of(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        if headers is not self._headers:
            self._make(headers)
        return self._lines

    def accepted(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        if headers is not self._headers:
            self._make(headers)
        return self._accepted

    def _make(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._headers, self._lines = headers, header_lines(headers)
        self._accepted = b"%bstream-next-offset: " % whole(204, headers, b"", b"", True)[: -len(b"\r\n")]


def header_lines(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are sent, each with its CRLF."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_own: Final = _Joined()


def whole(status: int, own: list[tuple[bytes, bytes]], head: bytes, body: bytes, keep_alive: bool) -> bytes:
    """A whole response. `own`: the server's headers; `head`: the other header lines, each with its CRLF."""
    end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
    return b"".join((STATUS_LINE[status], _own.of(own), head, end, body))


def no_content(own: list[tuple[bytes, bytes]], offset: bytes, lines: bytes) -> bytes:
    """`whole` for the most frequent answer: 204, this offset, and the lines that every answer carries."""
    return b"%b%b\r\n%b\r\n" % (_own.accepted(own), offset, lines)


def answer(cycle: Cycle, status: int, head: bytes, body: bytes) -> None:
    """Answers a request that uvicorn has begun for ASGI. `head`: as for `whole`."""
    if cycle.disconnected:
        return
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    shown = b"" if cycle.scope["method"] == "HEAD" else body
    if len(shown) < SHARED:
        cycle.transport.write(whole(status, cycle.default_headers, head, shown, cycle.keep_alive))
    else:  # others may wait for the same body behind another head
        cycle.transport.write(whole(status, cycle.default_headers, head, b"", cycle.keep_alive))
        cycle.transport.write(shown)
    if not cycle.keep_alive:
        connection: DirectProtocol | None = cycle.scope.get("extensions", {}).get(EXTENSION)  # type: ignore[assignment]
        if cycle.more_body and connection is not None:
            connection.linger()
        else:
            cycle.transport.close()
    cycle.on_response()


def takes_parts(send: Any) -> bool:
    """True if `send` is uvicorn's own, of ours."""
    return type(getattr(send, "__self__", None)) is Cycle


def cycle_of(send: Any) -> Cycle | None:
    """uvicorn's state of a request, if `send` is its own, no byte of an answer was sent, and the socket is not full."""
    cycle = getattr(send, "__self__", None)
    if type(cycle) is Cycle and not cycle.response_started and not cycle.flow.write_paused:
        return cycle
    return None
