"""The stream routes: `/v1/stream/<path>` and `/runs/<id>`, straight over ASGI, for these are the hot paths."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.counting import Inside
from gateway.fanout.follower import Direct, Follower, Signal, direct
from gateway.fanout.hub import Hub
from gateway.fanout.pages import Pages
from gateway.fanout.transport import Cycle
from gateway.http import responses
from gateway.http.responses import Headers, Receive, Scope, Send
from gateway.log.lifecycle import Created
from gateway.log.writer import Appended, Settle
from gateway.protocol import frames, headers
from gateway.protocol.batch import JSON_TYPE, Batch, Encoding, Page, Stream, media_type
from gateway.protocol.cursor import cursor
from gateway.protocol.errors import (
    BodyTooLarge,
    ContentTypeMismatch,
    Draining,
    InvalidJson,
    InvalidRequest,
    MethodNotAllowed,
    ProtocolError,
    StreamClosed,
)
from gateway.protocol.offset import NOW, format_offset
from gateway.protocol.request import (
    AppendRequest,
    CreateRequest,
    Live,
    ReadRequest,
    check_path,
    parse_append,
    parse_create,
    parse_read,
    stream_path_of,
)

SHARED: Final = 64 << 10  # bytes of a body that is worth not being copied


class Log(Protocol):
    """What the routes ask of the log."""

    async def create(self, request: CreateRequest) -> Created: ...
    async def append(self, request: AppendRequest) -> Appended: ...
    def submit(self, request: AppendRequest, settle: Settle) -> None: ...
    async def delete(self, path: str) -> None: ...
    async def stat(self, path: str) -> Stream: ...
    async def read(
        self, path: str, position: int, *, last_events: int | None = None, known: Page | None = None
    ) -> Page: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes that a request may take."""

    max_body: int
    long_poll_timeout: float
    sse_max_age: float
    pages: int = 8 << 20  # kept in memory, for those who read a long run at the same time


class StreamRoutes:
    """One handler a method; each parses, asks the log or the hub, and answers."""

    def __init__(self, log: Log, hub: Hub, limits: Limits, now: Callable[[], float]) -> None:
        self.sse = Inside()
        self.long_polls = Inside()
        self.catch_ups = 0  # reads that were answered with what there was
        self._log = log
        self._hub = hub
        self._limits = limits
        self._now = now
        self._pages = Pages(log, limits.pages)
        self._methods = {
            "POST": self._append,
            "GET": self._read,
            "PUT": self._create,
            "HEAD": self._head,
            "DELETE": self._delete,
        }

    def __call__(self, path: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answers a request for the stream at `path`. Raises ProtocolError while nothing has been sent.

        No coroutine of its own, nor has `_read`: each would be held by every reader that follows.
        """
        method = scope["method"]
        handler = self._methods.get(method)
        if handler is not None:
            return handler(check_path(path), scope, receive, send)
        if method == "OPTIONS":
            return responses.preflight(send)
        raise MethodNotAllowed(None, [(b"allow", b"GET, HEAD, PUT, POST, DELETE, OPTIONS")])

    async def _append(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive)
        try:
            request = parse_append(path, scope["headers"], body)
        except InvalidJson:
            await self._refuse_before_json(path)
            raise
        status, answer = _appended(request, await self._log.append(request))
        await responses.respond(send, status, answer)

    def append_directly(self, cycle: Cycle) -> bool:
        """Answers a POST whose whole body is there, without a task; False leaves it to `_append`.

        Only what is going to be asked of the log is taken: every refusal before that is `_append`'s.
        """
        scope = cycle.scope
        path = stream_path_of(scope["path"])
        if path is None or path.startswith("__ds") or len(cycle.body) > self._limits.max_body:
            return False
        try:
            request = parse_append(check_path(path), scope["headers"], bytes(cycle.body))
            self._log.submit(request, lambda outcome: _settle(cycle, request, outcome))
        except ProtocolError:
            return False
        return True

    async def _refuse_before_json(self, path: str) -> None:
        """§5.2's order: whether the stream exists, is closed, and has this type is judged before its content."""
        stream = await self._log.stat(path)
        if stream.closed:
            raise StreamClosed(stream.tail)
        if media_type(stream.content_type) != JSON_TYPE:
            raise ContentTypeMismatch

    async def _create(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive)
        created = await self._log.create(parse_create(path, scope["headers"], body))
        answer = [
            (b"content-type", created.content_type.encode("latin-1")),
            (b"stream-next-offset", format_offset(created.tail)),
        ]
        if created.closed:
            answer.append((b"stream-closed", b"true"))
        if created.new:
            answer.append((b"location", _url(scope)))
        await responses.respond(send, 201 if created.new else 200, answer)

    async def _head(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        await responses.head(send, 200, headers.of_stream(await self._log.stat(path)))

    async def _delete(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        await self._log.delete(path)
        await responses.respond(send, 204, [])

    def _read(self, path: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        with_tail = path.startswith("runs/")
        request = parse_read(path, scope["headers"], scope["query_string"], with_tail=with_tail)
        if request.live is Live.NO:
            return self._plain(request, send)
        if self._hub.draining:
            raise Draining
        if request.live is Live.LONG_POLL:
            return self._long_poll(request, receive, send)
        return self._sse(request, scope, receive, send)

    @property
    def joined(self) -> int:
        """Catch-up reads of the log that somebody else had asked for."""
        return self._pages.joined

    async def _plain(self, request: ReadRequest, send: Send) -> None:
        self.catch_ups += 1
        if request.last_events is not None:
            page = await self._log.read(request.path, 0, last_events=request.last_events)
        else:
            page = await self._pages.read(request.path, request.position)
        await self._answer(send, request, page)

    async def _answer(self, send: Send, request: ReadRequest, page: Page, cursor: int | None = None) -> None:
        """A batch as a whole response, or 304 when the client has it already (§10.1)."""
        batch, stream = page.batch, page.stream
        start = request.offset if request.last_events is None else format_offset(batch.start)
        now = request.position == NOW
        tag = headers.etag(stream, start, batch.end, batch.closed)
        if request.if_none_match is not None and not now and headers.etag_matches(request.if_none_match, tag):
            await responses.respond(send, 304, [(b"etag", tag)])
            return
        answer = headers.of_batch(stream, batch, start, cursor=cursor, now=now)
        if len(batch.body) < SHARED:
            await responses.respond(send, 200, answer, frames.body(stream.encoding, batch))
        else:
            await _in_parts(send, answer, frames.parts(stream.encoding, batch))

    async def _long_poll(self, request: ReadRequest, receive: Receive, send: Send) -> None:
        with self.long_polls, Follower(self._hub, request.path) as follower, _Hangup(follower, receive):
            page = await follower.begin(request.position, request.last_events)
            follower.expire(self._limits.long_poll_timeout)
            batch: Batch | Signal = page.batch
            while batch is Signal.HEARTBEAT or (isinstance(batch, Batch) and batch.empty and not batch.closed):
                batch = await follower.next()
            jitter = random.random()
            answer_cursor = cursor(self._now(), request.cursor, jitter)
            if isinstance(batch, Batch) and not batch.empty:
                await self._answer(send, request, Page(page.stream, batch), answer_cursor)
            else:
                closed = isinstance(batch, Batch)
                nothing = headers.of_nothing_new(follower.position, closed, answer_cursor)
                await responses.respond(send, 204, nothing)

    async def _sse(self, request: ReadRequest, scope: Scope, receive: Receive, send: Send) -> None:
        connection = direct(scope)
        with (
            self.sse,
            Follower(self._hub, request.path, connection) as follower,
            _hangup(follower, receive, connection),
        ):
            encoding, closed = await self._sse_begin(request, follower, send)
            del request
            if connection is not None:
                _forget(scope)
            while not closed:
                try:
                    batch = await follower.next()
                except ProtocolError:
                    break  # the log is away or the stream gone: a clean end, from which the client asks again
                if batch is Signal.OVER:
                    break
                if isinstance(batch, Signal):
                    await responses.piece(send, frames.HEARTBEAT)
                    continue
                token = self._hub.cursor(follower.tail)
                await responses.piece(send, frames.sse(encoding, batch, b"%d" % token))
                closed = batch.closed
                del batch  # nobody holds on to a page while he waits
        await responses.finish(send)

    async def _sse_begin(self, request: ReadRequest, follower: Follower, send: Send) -> tuple[Encoding, bool]:
        """The head and the first page; tells whether that is all."""
        page = await follower.begin(request.position, request.last_events)
        follower.expire(self._limits.sse_max_age * random.uniform(1, 1.2))
        encoding = page.stream.encoding
        await responses.start(send, 200, headers.of_sse(encoding))
        token = self._hub.cursor(follower.tail, request.cursor)
        await responses.piece(send, frames.sse(encoding, page.batch, b"%d" % token, first=True))
        return encoding, page.batch.closed

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limit = self._limits.max_body
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > limit:
                raise BodyTooLarge(f"At most {limit} bytes.")
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            parts = bytearray(body)
            while message.get("more_body", False) and len(parts) <= limit:
                message = await receive()
                parts += message.get("body", b"")
            body = bytes(parts)
        if message["type"] == "http.disconnect":
            raise InvalidRequest("The request was cut off.")  # half a body is no body: nothing is appended
        if len(body) > limit:
            raise BodyTooLarge(f"At most {limit} bytes.")
        return body


def _appended(request: AppendRequest, result: Appended) -> tuple[int, Headers]:
    """Status and headers for an append that succeeded."""
    headers: Headers = [(b"stream-next-offset", format_offset(result.tail))]
    if result.closed:
        headers.append((b"stream-closed", b"true"))
    if request.producer is not None:
        headers.append((b"producer-epoch", b"%d" % (result.epoch or 0)))
        headers.append((b"producer-seq", b"%d" % (result.seq or 0)))
    # §5.2.1: 200 tells a producer that its data is new; everything else that succeeds says 204.
    return (200 if request.producer and request.events and not result.duplicate else 204), headers


def _settle(cycle: Cycle, request: AppendRequest, outcome: Appended | ProtocolError) -> None:
    if isinstance(outcome, ProtocolError):
        responses.refuse_directly(cycle, outcome)
    else:
        responses.answer_directly(cycle, *_appended(request, outcome))


class _Hangup:
    """Ends a follower when its client has gone, for which a task listens."""

    def __init__(self, follower: Follower, receive: Receive) -> None:
        self._follower = follower
        self._receive = receive

    def __enter__(self) -> None:
        self._task = asyncio.ensure_future(self._listen())

    def __exit__(self, *_: object) -> None:
        self._task.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._follower.end()


_TOLD: Final = nullcontext()


def _hangup(follower: Follower, receive: Receive, connection: Direct | None) -> AbstractContextManager[None]:
    """A direct connection says by itself that it is lost."""
    return _Hangup(follower, receive) if connection is None else _TOLD


def _forget(scope: Scope) -> None:
    """Lets go of a request that has been understood, for its response may last for hours. Only where the server is
    known to ask for no more than the method: that of `gateway.fanout.transport`.
    """
    method = scope["method"]
    scope["headers"].clear()
    scope.clear()
    scope["method"] = method


async def _in_parts(send: Send, answer: Headers, parts: Sequence[bytes]) -> None:
    """A large body without a copy of it: all who are sent the same page share its bytes."""
    length = sum(len(part) for part in parts)
    await responses.start(send, 200, [*answer, (b"content-length", b"%d" % length)])
    for part in parts:
        await responses.piece(send, part)
    await responses.finish(send)


def _url(scope: Scope) -> bytes:
    """The absolute URL that was asked for, without its query."""
    host = next((value for name, value in scope["headers"] if name == b"host"), None)
    if host is None:
        address, port = scope["server"]
        host = f"{address}:{port}".encode()
    path = scope.get("raw_path") or scope["path"].encode()
    return b"%b://%b%b" % (scope["scheme"].encode(), host, path)
