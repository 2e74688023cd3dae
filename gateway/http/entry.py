"""Where every request comes in: who makes it, whether there is room for it, and who answers it.

Streams are answered straight over ASGI, the rest by FastAPI, and what is not the gateway's own by the application
behind it. Whatever any of them raises becomes a refusal here.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway.asgi import App, Receive, Scope, Send, target_of
from gateway.auth.facade import Auth
from gateway.auth.gate import let_in
from gateway.auth.rules import ours
from gateway.http import request_log, responses
from gateway.http.cors import Cors, is_preflight
from gateway.http.post import Post
from gateway.http.responses import Sending
from gateway.http.routes import AppendDirectly, Routes
from gateway.http.upstream import Upstream
from gateway.protocol.errors import (
    Draining,
    InternalFault,
    InvalidRequest,
    MethodNotAllowed,
    ProtocolError,
    RouteNotFound,
)
from gateway.protocol.target import Target
from gateway.quotas import Quotas
from gateway.quotas.facade import open_at

MOST_FIELDS: Final = 256
"""Fields of a query, so that nobody takes one apart for long. What is below a route may take fewer."""

_METHODS: Final = b"GET, HEAD, PUT, POST, DELETE, OPTIONS"


class Entry:
    """The application that the server runs.

    `api` answers what is no stream, `upstream` what is not the gateway's own.
    """

    def __init__(
        self,
        *,
        auth: Auth,
        quotas: Quotas,
        cors: Cors,
        streams: Routes,
        append_directly: AppendDirectly,
        api: App,
        upstream: Upstream | None,
    ) -> None:
        self._auth = auth
        self._quotas = quotas
        self._cors = cors
        self._streams = streams
        self._append_directly = append_directly
        self._api = api
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._quotas.addresses is None:
            await self._let_on(scope, receive, send)
            return
        try:
            address = open_at(self._quotas.addresses, scope)
        except ProtocolError as error:
            await responses.refuse(scope, responses.carrying(scope, send, self._cors.common(scope)), error)
            return
        with self._quotas.addresses.one(address):
            await self._let_on(scope, receive, send)

    def expects(self, post: Post) -> bool:
        """Whether a POST may come past ASGI: its sender is known already, and no quota has to be asked. See Appends."""
        if self._quotas.counting:
            return False
        principal = self._auth.known(post.headers, post.target)
        if principal is None:
            return False
        post.stored = post.target.stored(principal.tenant)
        post.common = self._cors.to(post.headers.get(b"origin"))
        return True

    def takes(self, post: Post) -> bool:
        """Hands a POST to the log, and says whether it will be answered. See Appends."""
        try:
            return self._append_directly(post)
        except Exception as error:  # noqa: BLE001  logged with its traceback
            request_log.failed(post.scope, error)
            post.refuse(InternalFault())
            return True

    async def _let_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._upstream is not None and not ours(target_of(scope)) and scope["method"] != "TRACE":
            await self._passed_on(self._upstream, scope, receive, send)
            return
        sending = responses.carrying(scope, send, self._cors.common(scope))
        if scope["method"] == "TRACE":  # it would show to a script what its browser adds to a request (RFC 9110 §9.3.8)
            await responses.refuse(scope, sending, MethodNotAllowed(None, [(b"allow", _METHODS)]))
        elif scope["query_string"].count(b"&") > MOST_FIELDS:
            await responses.refuse(scope, sending, InvalidRequest(f"A query has at most {MOST_FIELDS} fields."))
        else:
            await self._answer(scope, receive, sending)

    async def _answer(self, scope: Scope, receive: Receive, sending: Sending) -> None:
        if is_preflight(scope):
            await responses.preflight(scope, sending)
            return
        if not self._auth.on and not self._quotas.judging:
            let_in(scope)
        elif not await self._admit(scope, sending):
            return
        target = target_of(scope)
        if target.stream is not None:
            await self._stream(target, scope, receive, sending)
        else:
            await self._by_fastapi(scope, receive, sending)

    async def _admit(self, scope: Scope, send: Send) -> bool:
        """Whether the request is let in. If it is not, this has answered it."""
        try:
            principal = await self._auth.admit(scope)
            let_in(scope, principal)
            if self._quotas.judging:
                await self._quotas.judge(scope, principal)
        except Exception as error:  # noqa: BLE001  logged with its traceback, unless it is a refusal
            await responses.refuse(scope, send, _refusal_for(scope, error))
            return False
        return True

    async def _stream(self, target: Target, scope: Scope, receive: Receive, send: Sending) -> None:
        try:
            await self._streams(target, scope, receive, send)
        except asyncio.CancelledError:
            if send.begun:
                raise
            await responses.refuse(scope, send, Draining())  # the server waits no longer; another Machine may answer
        except Exception as error:
            if send.begun:
                raise  # nothing true can be said any more: the connection is closed
            await responses.refuse(scope, send, _refusal_for(scope, error))

    async def _by_fastapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(Exception):  # Starlette raises once more what `_render_fault` has logged and answered
            await self._api(scope, receive, send)

    async def _passed_on(self, upstream: Upstream, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await upstream(scope, receive, send)  # its answers are passed on as they are, without our headers
        except ProtocolError as error:
            await responses.refuse(scope, responses.carrying(scope, send, self._cors.common(scope)), error)


def render_refusals(api: FastAPI) -> None:
    """FastAPI's own refusals and faults in the one shape of all others."""
    handlers: dict[type[Exception], Any] = {
        ProtocolError: _render,
        HTTPException: _render_http,
        Exception: _render_fault,
    }
    for error, handler in handlers.items():
        api.add_exception_handler(error, handler)


def _refusal_for(scope: Scope, error: Exception) -> ProtocolError:
    """What the client is told: a refusal as it is, and of anything else only that it went wrong. The log tells more."""
    if isinstance(error, ProtocolError):
        return error
    request_log.failed(scope, error)
    return InternalFault()


async def _render(request: Request, error: ProtocolError) -> Response:
    headers, body = responses.refusal(request.scope, error)
    response = Response(body, status_code=error.status)
    response.raw_headers = [*headers, (b"content-length", b"%d" % len(body))]
    return response


async def _render_fault(request: Request, error: Exception) -> Response:
    return await _render(request, _refusal_for(request.scope, error))


async def _render_http(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return await _render(request, MethodNotAllowed(None, [(b"allow", allow.encode())]))
    return await _render(request, RouteNotFound())
