"""Routes at and below `/runs/<id>` besides its stream, straight over ASGI: `?meta`, `/control` and so on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

import orjson

from gateway.asgi import Receive, Scope, Send
from gateway.auth.gate import check_stream, let_in, principal_of
from gateway.feed import Feed
from gateway.http import responses
from gateway.http.bodies import Bodies
from gateway.http.reading import Reading
from gateway.http.routes import Routes
from gateway.protocol.errors import MethodNotAllowed, StreamNotFound
from gateway.protocol.headers import JSON, NO_STORE
from gateway.protocol.record import to_json
from gateway.protocol.target import Part, Target
from gateway.runs.bodies import parse_cancel
from gateway.runs.queries import MetaRequest, parse_meta
from gateway.runs.store import Store

MAX_BODY: Final = 16 << 10  # bytes of a cancel


class Below(Protocol):
    """Answers a request below the run at this stored path."""

    def __call__(self, run: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]: ...


class RunStreams:
    """The stream routes, with what a run adds to them.

    `reading` has the gateway's own streams. `feed` is given what was written here. `readers`: how many read a
    stream here.
    """

    def __init__(
        self,
        streams: Routes,
        store: Store,
        tokens: Below,
        reading: Reading,
        bodies: Bodies,
        feed: Feed,
        readers: Callable[[str], int],
    ) -> None:
        self.append: Final = streams.append
        """Appends as to any stream: see Routes."""
        self._streams = streams
        self._store = store
        self._tokens = tokens
        self._reading = reading
        self._bodies = bodies
        self._feed = feed
        self._readers = readers

    def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answers a request for a stream, or below a run. Raises ProtocolError while nothing has been sent.

        It returns another's coroutine and has none of its own, which every open reader would keep in memory.
        """
        if target.part is not None:
            return self._below(target.part, target, scope, receive, send)
        if target.is_run and b"meta" in scope["query_string"] and scope["method"] == "GET":
            asked = parse_meta(scope["query_string"])
            if asked is not None:
                return self._meta(_stored(target, scope), asked, scope, receive, send)
        return self._streams(target, scope, receive, send)

    def _below(self, part: Part, target: Target, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        method = scope["method"]
        if method == "OPTIONS":
            return responses.preflight(scope, send)
        if part is Part.CONTROL and method != "DELETE":
            return self._control(target, scope, receive, send)
        if part is Part.HEARTBEAT and method == "POST":
            return self._streams(target, scope, receive, send)
        if part is Part.CANCEL and method == "POST":
            return self._cancel(_stored(target, scope), scope, receive, send)
        if part is Part.TOKEN and method == "POST":
            return self._tokens(_stored(target, scope), scope, receive, send)
        allow = b"GET, HEAD, PUT, POST, OPTIONS" if part is Part.CONTROL else b"POST, OPTIONS"
        raise MethodNotAllowed(None, [(b"allow", allow)])

    async def _meta(self, run: str, asked: MetaRequest, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with the record: immediately, or when the run has ended or as many seconds as asked have passed.

        Raises what a live read raises, rather than say before its time that the run is active.
        """
        principal = principal_of(scope)
        stream_id, record = await self._store.look_near(run, principal.stream_id)
        check_stream(principal, stream_id)
        if asked.wait and not record.ended:
            early = await self._reading.until_closed(run, asked.wait, scope, receive)
            stream_id, record = await self._store.look_near(run, principal.stream_id)
            check_stream(principal, stream_id)
            if early is not None and not record.ended:
                raise early
        body = to_json(record)
        if asked.activity:
            activity = await self._store.activity(stream_id, principal.tenant)
            body = b'%b,"activity":%b}' % (body[:-1], orjson.dumps(activity | {"readersHere": self._readers(run)}))
        await responses.respond(send, 200, [JSON, NO_STORE], body)

    async def _control(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """The stream from readers to the producer. The first request for it creates it."""
        stored, principal = _stored(target, scope), principal_of(scope)
        if principal.stream_id is None:
            if not await self._store.open_control(stored):
                raise StreamNotFound
        else:
            ids = await self._store.control(stored)
            if ids is None:
                raise StreamNotFound
            check_stream(principal, ids[0])
            let_in(scope, replace(principal, stream_id=ids[1]))  # whose run was its own when they were looked at
        await self._streams(target, scope, receive, send)

    async def _cancel(self, run: str, scope: Scope, receive: Receive, send: Send) -> None:
        reason = parse_cancel(await self._bodies.read(scope, receive, MAX_BODY))
        principal = principal_of(scope)
        if principal.stream_id is not None:
            check_stream(principal, (await self._store.look(run))[0])
        news = await self._store.cancel(run, reason, stream_id=principal.stream_id)
        if news is not None:
            self._feed.committed(news)
        await responses.respond(send, 202, [])


def _stored(target: Target, scope: Scope) -> str:
    """The run's path as it is stored. Raises InvalidRequest."""
    return target.stored_run(principal_of(scope).tenant)
