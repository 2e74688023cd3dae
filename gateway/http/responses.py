"""Answers over bare ASGI, and the one place where a refusal is rendered."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Final, cast

import orjson

from gateway.asgi import Headers, Message, Scope, Send
from gateway.http import cors, request_log
from gateway.http.cors import Common
from gateway.protocol.errors import ProtocolError
from gateway.protocol.fields import accept_of, only_events
from gateway.protocol.headers import JSON, NO_STORE
from gateway.wire.answers import answer, cycle_of, header_lines, takes_parts
from gateway.wire.slim import Cycle

refused: Final[Counter[str]] = Counter()
"""Refusals that this process has rendered, by their type."""

_BODYLESS: Final = (204, 304)
_PASSING: Final = (429, 503)
_CHANGING: Final = ("POST", "PUT", "PATCH", "DELETE")
_EVENT_STREAM: Final[Headers] = [(b"content-type", b"text/event-stream"), NO_STORE]
_LAST: Final[Message] = {"type": "http.response.body", "body": b"", "more_body": False}
_UNREFERRED: Final = (b"referrer-policy", b"no-referrer")
_COMMON: Final = "run_gateway.common"
NOTHING: Final = Common.of([])


class Sending:
    """A request's `send`. Adds the headers that every answer carries, and knows whether an answer has begun."""

    __slots__ = ("_common", "begun", "send")

    def __init__(self, send: Send, common: Common) -> None:
        self.send = send
        self.begun = False
        self._common = common

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            message["headers"] = [*message["headers"], *self._common.headers]
        await self._pass(message)

    async def as_it_is(self, message: Message) -> None:
        """The `send` for an answer that is passed on without the gateway's own headers."""
        self.begun = True
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        if "parts" in message and not takes_parts(self.send):  # of another server
            message = {**message, "body": b"".join(message["parts"])}
            del message["parts"]
        await self.send(message)


def carrying(scope: Scope, send: Send, common: Common) -> Sending:
    """`send` for all answers to this request. If its address may hold a token, pages must not pass the address on."""
    if b"token=" in scope["query_string"]:
        common = Common.of([*common.headers, _UNREFERRED])
    note(scope, common)
    return Sending(send, common)


def note(scope: Scope, common: Common) -> None:
    """Keeps, for `answer_directly`, what the answer to this request carries."""
    scope[_COMMON] = common


async def start(send: Send, status: int, headers: Headers) -> None:
    """The head of a response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def respond(send: Send, status: int, headers: Headers, body: bytes = b"") -> None:
    """A whole response. Its content type is exactly the one given; no value holds a line break."""
    cycle = cycle_of(send.send if isinstance(send, Sending) else send)
    if cycle is not None:
        answer_directly(cycle, status, headers, body)
        return
    if status not in _BODYLESS:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await start(send, status, headers)
    await send({"type": "http.response.body", "body": body, "more_body": False})


def answer_directly(cycle: Cycle, status: int, headers: Headers, body: bytes = b"") -> None:
    """A whole response in one write, past ASGI."""
    # Nothing was noted if an application in front of the entry answers, such as `gateway.http.replay`.
    common = cast("Scope", cycle.scope).get(_COMMON, NOTHING)
    answer(cycle, status, lines(status, headers, common, body), body)


def lines(status: int, headers: Headers, common: Common, body: bytes) -> bytes:
    """The header lines of a whole response."""
    if status not in _BODYLESS:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    return header_lines(headers) + common.lines


async def head(send: Send, status: int, headers: Headers) -> None:
    """The answer to HEAD: headers alone."""
    await start(send, status, headers)
    await send(_LAST)


async def preflight(scope: Scope, send: Send) -> None:
    """Answers OPTIONS, alike whether or not the stream exists."""
    await respond(send, 204, cors.preflight(scope))


async def piece(send: Send, data: bytes) -> None:
    """A part of a body whose end is not known yet."""
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def parts(send: Send, parts: Sequence[bytes]) -> None:
    """The same in several parts, which are not joined: what waits for many clients is kept once."""
    if len(parts) == 1:
        await piece(send, parts[0])
    elif parts:
        await send({"type": "http.response.body", "parts": parts, "more_body": True})


async def finish(send: Send) -> None:
    """The clean end of a body (law 9: a client's library resumes from it, and not from a reset)."""
    await send(_LAST)


def error_body(error: ProtocolError, message: str) -> bytes:
    """The one shape of a refusal."""
    return orjson.dumps({"error": {"type": error.type, "message": message, "details": error.details, **error.more}})


def error_headers(error: ProtocolError) -> Headers:
    """A refusal's own headers, and Retry-After: jittered, so that not all clients come back together (law 8)."""
    headers = [JSON, NO_STORE, *error.headers]
    if error.status in _PASSING:
        headers.append((b"retry-after", b"%d" % random.randint(1, 3)))
    return headers


def refusal(scope: Scope, error: ProtocolError) -> tuple[Headers, bytes]:
    """Headers and body of a refusal. Counts it, and logs it if the fault is not the client's."""
    refused[error.type] += 1
    request_log.refused(scope, error)
    headers = error_headers(error)
    if error.status >= 500:  # the line in the log has the same id
        headers.append((b"x-request-id", request_log.request_id(scope).encode()))
    message = error.message if scope["method"] in _CHANGING else error.to_reader
    return headers, error_body(error, message)


async def refuse(scope: Scope, send: Send, error: ProtocolError) -> None:
    """A ProtocolError as a response."""
    headers, body = refusal(scope, error)
    if comes_back(scope, error):
        await respond(send, 200, *later())
    elif scope["method"] == "HEAD":
        await head(send, error.status, headers)
    else:
        await respond(send, error.status, headers, body)


def at_the_door(error: ProtocolError, common: Common, scope: Scope | None = None) -> tuple[int, bytes, bytes]:
    """A refusal by the connection itself: status, header lines and body. `scope`: of the request, if it is one."""
    refused[error.type] += 1
    if scope is not None and comes_back(scope, error):
        headers, body = later()
        return 200, lines(200, headers, common, body), body
    body = error_body(error, error.message)
    return error.status, lines(error.status, error_headers(error), common, body), body


def comes_back(scope: Scope, error: ProtocolError) -> bool:
    """True if the refusal is for an EventSource, and is one after which it should come back.

    At any status but 200 it would give up for good (HTML, §9.2.2). 200 that ends immediately is a lost connection to
    it. Other clients come back after 429 and 503, and some of them give up when a response ends so soon: they are not
    answered like this, unless they accept nothing but event streams.
    """
    if error.status not in _PASSING or scope["method"] != "GET":
        return False
    event_source = only_events(accept_of(scope["headers"]))
    if b"live=sse" not in scope["query_string"]:
        return event_source and b"live=" not in scope["query_string"]
    return event_source or any(name == b"last-event-id" for name, _ in scope["headers"])


def later() -> tuple[Headers, bytes]:
    """Headers and body of an event stream that holds only the time to reconnect after: jittered, so that not all come
    back together (law 8).
    """
    return _EVENT_STREAM, b"retry: %d\n\n" % random.randint(1000, 3000)
