"""The stream routes: `/v1/stream/<path>` and `/runs/<id>`, straight over ASGI, since they are the hot paths."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol
from urllib.parse import quote

from gateway.asgi import Headers, Receive, Scope, Send, base_url, target_of
from gateway.auth.errors import ScopeMissing, WrongStream
from gateway.auth.gate import check_stream, principal_of
from gateway.auth.principal import Principal
from gateway.fanout.hub import Hub
from gateway.http import reading, responses
from gateway.http.fast_append import Post
from gateway.http.limits import Limits
from gateway.http.reading import Reading
from gateway.log.appends import Appended, Settle
from gateway.log.lifecycle import Created
from gateway.protocol import headers
from gateway.protocol.append import UNNUMBERED, AppendRequest, append_at_once, append_in_pieces, parse_heartbeat
from gateway.protocol.batch import JSON_TYPE, Stream, media_type
from gateway.protocol.content_type import content_type_header
from gateway.protocol.create import DEFAULT_TYPE, CreateRequest, Fork, parse_create
from gateway.protocol.errors import (
    ContentTypeMismatch,
    InvalidJson,
    MethodNotAllowed,
    ProtocolError,
    StreamClosed,
    StreamGone,
    StreamNotFound,
)
from gateway.protocol.fields import GivenHeaders
from gateway.protocol.offset import format_offset
from gateway.protocol.read import parse_read
from gateway.protocol.target import Part, Target, within, without
from gateway.tasks import in_turns

_DIRECT: Final = (None, Part.HEARTBEAT)  # the other parts of a run ask the log more than once


class Log(reading.Log, Protocol):
    """The port to a log, as the routes need it."""

    async def create(self, request: CreateRequest) -> Created: ...
    async def append(self, request: AppendRequest) -> Appended: ...
    def submit(self, request: AppendRequest, settle: Settle) -> None: ...
    async def delete(self, path: str) -> None: ...
    async def stat(self, path: str) -> Stream: ...


class StreamRoutes:
    """A handler for each method, which parses, asks the log or the hub, and answers.

    `now` gives seconds since 1970; `public_url` is the address by which clients know this server, if it is set.
    `expect` is told what a reader expects of a stream: its tail, whether it is closed, and its id, if it is known.
    """

    def __init__(
        self,
        log: Log,
        hub: Hub,
        limits: Limits,
        now: Callable[[], float],
        public_url: str | None = None,
        expect: Callable[[str, int, bool, int], None] | None = None,
        shares: Callable[[Scope], bool] = lambda _: False,
    ) -> None:
        self.reading = Reading(log, hub, limits, now, shares=shares)
        self._public_url = public_url
        self._expect = expect
        self._log = log
        self._limits = limits
        self._short = sys.maxsize if limits.max_event is None else limits.max_event  # bytes; no event of it is too long
        self._explaining: set[asyncio.Task[None]] = set()  # kept, since the loop holds tasks only weakly
        self._methods = {
            "POST": self._append,
            "GET": self._read,
            "PUT": self._create,
            "HEAD": self._head,
            "DELETE": self._delete,
        }

    def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answers a request for a stream. Raises ProtocolError while nothing has been sent.

        No coroutine of its own, nor has `_read`: each would be held by every reader that follows.
        """
        method = scope["method"]
        handler = self._methods.get(method)
        if handler is not None:
            return handler(target.stored(principal_of(scope).tenant), scope, receive, send)
        if method == "OPTIONS":
            return responses.preflight(scope, send)
        raise MethodNotAllowed(None, [(b"allow", b"GET, HEAD, PUT, POST, DELETE, OPTIONS")])

    async def _append(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        part = target_of(scope).part
        body = await self._limits.bodies.read(scope, receive, self._limits.max_body)
        try:
            request = _parse_post(part, path, scope["headers"], body, self._limits.max_batch)
            if request is None:
                request = await in_turns(
                    append_in_pieces(path, scope["headers"], body, self._limits.max_batch), len(body)
                )
        except InvalidJson:
            await self._refuse_before_json(path)
            raise
        self._limits.check(request.events)
        try:
            status, answer = _appended(request, await self._log.append(request))
        except ContentTypeMismatch as error:
            raise await self._mismatch(path, request.media_type) from error
        await responses.respond(send, status, answer)

    def append(self, post: Post) -> bool:
        """Answers a POST whose whole body is there, without a task. See Routes."""
        if len(post.body) > self._limits.max_body or post.target.part not in _DIRECT:
            return False
        request = _parse_post(post.target.part, post.stored, post.headers, post.body, self._limits.max_batch)
        if request is None:
            return False
        if len(post.body) > self._short:
            self._limits.check(request.events)
        self._log.submit(request, partial(self._settle, post, request))
        return True

    def _settle(self, post: Post, request: AppendRequest, outcome: Appended | ProtocolError) -> None:
        if isinstance(outcome, Appended):
            if request.producer is None and not outcome.closed and not outcome.cancel_requested:
                post.accepted(format_offset(outcome.tail))
            else:
                post.answer(*_appended(request, outcome))
        elif isinstance(outcome, ContentTypeMismatch):
            explaining = asyncio.ensure_future(self._explain(post, request))
            self._explaining.add(explaining)
            explaining.add_done_callback(self._explaining.discard)
        else:
            post.refuse(outcome)

    async def _explain(self, post: Post, request: AppendRequest) -> None:
        post.refuse(await self._mismatch(request.path, request.media_type))

    async def _refuse_before_json(self, path: str) -> None:
        """Raises what goes before bad JSON in §5.2's order: no such stream, a closed one, another content type."""
        stream = await self._log.stat(path)
        if stream.closed:
            raise StreamClosed(stream.tail)
        if media_type(stream.content_type) != JSON_TYPE:
            raise ContentTypeMismatch.between(JSON_TYPE, stream.content_type)

    async def _mismatch(self, path: str, media: str | None) -> ProtocolError:
        """The refusal of a type that is not the stream's, with the stream's."""
        try:
            return ContentTypeMismatch.between(media or DEFAULT_TYPE, (await self._log.stat(path)).content_type)
        except ProtocolError as error:
            return error  # gone since then, or the log has

    async def _create(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._limits.bodies.read(scope, receive, self._limits.max_body)
        request = parse_create(path, scope["headers"], body, self._limits.max_batch)
        if request.fork is not None:
            # The fork's readers read what it inherits: its maker must be able to, and the source be within reach.
            request = replace(request, fork=_forked(request.fork, principal_of(scope)))
        if request.body:
            content_type = request.content_type or await self._inherited(request)
            events = await in_turns(request.events_in_pieces(content_type or DEFAULT_TYPE), len(body))
            self._limits.check(events)
            request = replace(request, content_type=content_type, events=events)
        created = await self._log.create(request)
        answer = [
            (b"content-type", content_type_header(created.content_type)),
            (b"stream-next-offset", format_offset(created.tail)),
        ]
        if created.closed:
            answer.append((b"stream-closed", b"true"))
        if created.new:
            location = base_url(scope, self._public_url) + _path(scope)
            answer.append((b"location", location.encode("latin-1")))
        await responses.respond(send, 201 if created.new else 200, answer)

    async def _inherited(self, request: CreateRequest) -> str | None:
        """The type of a fork that names none: its source's. None: there is no source; the log says what follows."""
        assert request.fork is not None, "whatever is no fork has a type"
        try:
            return (await self._log.stat(request.fork.source)).content_type
        except (StreamNotFound, StreamGone):
            return None

    async def _head(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        stream = await self._log.stat(path)
        check_stream(principal_of(scope), stream.id)
        await responses.head(send, 200, headers.of_stream(stream))

    async def _delete(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        await self._log.delete(path)
        await responses.respond(send, 204, [])

    def _read(self, path: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        with_tail = without(path).startswith("runs/")
        request = parse_read(path, scope["headers"], scope["query_string"], with_tail=with_tail)
        if self._expect is not None:
            bound = principal_of(scope).stream_id or 0
            if bound or request.seen or request.ended:
                self._expect(path, request.seen, request.ended, bound)
        return self.reading(request, scope, receive, send)


def _forked(fork: Fork, principal: Principal) -> Fork:
    """A fork's source inside the tenant. Raises ScopeMissing, WrongStream."""
    if "read" not in principal.scopes:
        raise ScopeMissing("read")
    if not principal.reaches(fork.source):
        raise WrongStream("The source is not among them.")
    return replace(fork, source=within(principal.tenant, fork.source))


def _parse_post(
    part: Part | None, path: str, headers: GivenHeaders, body: bytes, most: int | None
) -> AppendRequest | None:
    """None: to parse it may take long, so it has to be done in pieces."""
    if part is Part.HEARTBEAT:
        return parse_heartbeat(path.removesuffix(part.value), headers, body)
    return append_at_once(path, headers, body, most)


def _appended(request: AppendRequest, result: Appended) -> tuple[int, Headers]:
    """Status and headers for an append that succeeded."""
    headers: Headers = [(b"stream-next-offset", format_offset(result.tail))]
    if result.closed:
        headers.append((b"stream-closed", b"true"))
    if result.cancel_requested:
        headers.append((b"run-cancel-requested", b"true"))
    if request.producer is not None and request.producer.seq != UNNUMBERED:
        headers.append((b"producer-epoch", b"%d" % (result.epoch or 0)))
        headers.append((b"producer-seq", b"%d" % (result.seq or 0)))
    # §5.2.1: 200 tells a producer that its data is new; everything else that succeeds says 204.
    return (200 if request.producer and request.events and not result.duplicate else 204), headers


def _path(scope: Scope) -> str:
    """The path that was asked for, as it was written."""
    raw: bytes | None = scope.get("raw_path")
    return raw.decode("latin-1") if raw else quote(scope["path"])
