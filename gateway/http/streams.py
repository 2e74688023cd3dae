"""The stream routes: `/v1/stream/<path>` and `/runs/<id>`, straight over ASGI, for these are the hot paths."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.fanout.follower import Direct, Follower, Signal, direct
from gateway.fanout.hub import Hub
from gateway.http import responses
from gateway.http.responses import Headers, Receive, Scope, Send
from gateway.log.lifecycle import Created
from gateway.log.writer import Appended
from gateway.protocol import frames, headers
from gateway.protocol.batch import JSON_TYPE, Batch, Page, Stream, media_type
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
)


class Log(Protocol):
    """What the routes ask of the log."""

    async def create(self, request: CreateRequest) -> Created: ...
    async def append(self, request: AppendRequest) -> Appended: ...
    async def delete(self, path: str) -> None: ...
    async def stat(self, path: str) -> Stream: ...
    async def read(self, path: str, position: int, *, last_events: int | None = None) -> Page: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes that a request may take."""

    max_body: int
    long_poll_timeout: float
    sse_max_age: float


class StreamRoutes:
    """One handler a method; each parses, asks the log or the hub, and answers."""

    def __init__(self, log: Log, hub: Hub, limits: Limits, now: Callable[[], float]) -> None:
        self._log = log
        self._hub = hub
        self._limits = limits
        self._now = now
        self._methods = {
            "POST": self._append,
            "GET": self._read,
            "PUT": self._create,
            "HEAD": self._head,
            "DELETE": self._delete,
        }

    async def __call__(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request for the stream at `path`. Raises ProtocolError while nothing has been sent."""
        method = scope["method"]
        handler = self._methods.get(method)
        if handler is not None:
            await handler(check_path(path), scope, receive, send)
        elif method == "OPTIONS":
            await responses.preflight(send)
        else:
            raise MethodNotAllowed(None, [(b"allow", b"GET, HEAD, PUT, POST, DELETE, OPTIONS")])

    async def _append(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(scope, receive)
        try:
            request = parse_append(path, scope["headers"], body)
        except InvalidJson:
            await self._refuse_before_json(path)
            raise
        result = await self._log.append(request)
        answer: Headers = [(b"stream-next-offset", format_offset(result.tail))]
        if result.closed:
            answer.append((b"stream-closed", b"true"))
        # §5.2.1: 200 tells a producer that its data is new; everything else that succeeds says 204.
        status = 200 if request.producer and request.events and not result.duplicate else 204
        if request.producer is not None:
            answer.append((b"producer-epoch", b"%d" % (result.epoch or 0)))
            answer.append((b"producer-seq", b"%d" % (result.seq or 0)))
        await responses.respond(send, status, answer)

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

    async def _read(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        with_tail = path.startswith("runs/")
        request = parse_read(path, scope["headers"], scope["query_string"], with_tail=with_tail)
        if request.live is Live.NO:
            page = await self._first_page(request)
            await self._answer(send, request, page)
            return
        if self._hub.draining:
            raise Draining
        if request.live is Live.LONG_POLL:
            await self._long_poll(request, receive, send)
        else:
            await self._sse(request, scope, receive, send)

    async def _first_page(self, request: ReadRequest) -> Page:
        if request.last_events is not None:
            return await self._log.read(request.path, 0, last_events=request.last_events)
        if request.live is Live.NO:
            return await self._log.read(request.path, request.position)
        return await self._hub.read(request.path, request.position)

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
        await responses.respond(send, 200, answer, frames.body(stream.encoding, batch))

    async def _long_poll(self, request: ReadRequest, receive: Receive, send: Send) -> None:
        with Follower(self._hub, request.path) as follower, _Hangup(follower, receive, None):
            page = await self._first_page(request)
            follower.begin(page)
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
            Follower(self._hub, request.path, connection) as follower,
            _Hangup(follower, receive, connection),
        ):
            page = await self._first_page(request)
            follower.begin(page)
            follower.expire(self._limits.sse_max_age * random.uniform(1, 1.2))
            encoding = page.stream.encoding
            await responses.start(send, 200, headers.of_sse(encoding))
            token = self._hub.cursor(follower.tail, request.cursor)
            await responses.piece(send, frames.sse(encoding, page.batch, b"%d" % token, first=True))
            closed = page.batch.closed
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
        await responses.finish(send)

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


class _Hangup:
    """Ends a follower when its client has gone. A direct connection says so itself; elsewhere a task listens."""

    def __init__(self, follower: Follower, receive: Receive, connection: Direct | None) -> None:
        self._follower = follower
        self._receive = receive
        self._task: asyncio.Task[None] | None = None
        self._needed = connection is None

    def __enter__(self) -> None:
        if self._needed:
            self._task = asyncio.ensure_future(self._listen())

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._follower.end()


def _url(scope: Scope) -> bytes:
    """The absolute URL that was asked for, without its query."""
    host = next((value for name, value in scope["headers"] if name == b"host"), None)
    if host is None:
        address, port = scope["server"]
        host = f"{address}:{port}".encode()
    path = scope.get("raw_path") or scope["path"].encode()
    return b"%b://%b%b" % (scope["scheme"].encode(), host, path)
