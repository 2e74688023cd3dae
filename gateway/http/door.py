"""The door, where every request comes in: who makes it, whether there is room for it, and what answers it.

Streams are answered straight over ASGI, the rest by FastAPI, and what is not the gateway's own by the application
behind it. Whatever one of them raises becomes a refusal here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.asgi import App, Receive, Scope, Send, client_of, target_of
from gateway.auth.auth import Auth
from gateway.auth.gate import Pending, let_in
from gateway.auth.principal import NOBODY, Principal
from gateway.auth.rules import ours
from gateway.fanout.follower import EXTENSION
from gateway.http import appends, request_log, responses
from gateway.http.cors import Cors, is_preflight
from gateway.http.fast_append import Post
from gateway.http.health import HEALTH
from gateway.http.later import Later
from gateway.http.responses import Sending
from gateway.http.routes import Routes
from gateway.protocol.errors import (
    Draining,
    InternalFault,
    InvalidRequest,
    MethodNotAllowed,
    ProtocolError,
)
from gateway.protocol.fields import GivenHeaders
from gateway.protocol.target import Target
from gateway.quotas import Quotas, open_at

if TYPE_CHECKING:
    from fastapi import FastAPI

MOST_FIELDS: Final = 256
"""Fields of a query, so that nobody takes one apart for long. What is below a route may take fewer."""

Behind = Callable[[Scope, Receive, Sending], Awaitable[None]]
"""The application behind the gateway. What it answers with `as_it_is` is passed on without the gateway's headers."""

_METHODS: Final = b"GET, HEAD, PUT, POST, DELETE, OPTIONS"
_FREE: Final = nullcontext()


class Door:
    """The application that the server runs, and what POSTs that come past ASGI are offered to.

    `health` answers HEALTH, `together` appends to many streams, `api` all else that is no stream, `behind` what is not
    the gateway's own. `relayed` says whether another gateway has let a request in, and counted it.
    """

    def __init__(
        self,
        *,
        auth: Auth,
        quotas: Quotas,
        cors: Cors,
        streams: Routes,
        health: App,
        together: App,
        api: Later[FastAPI],
        behind: Behind | None,
        relayed: Callable[[Scope], bool] | None = None,
    ) -> None:
        self.cors = cors
        self._admit = auth.admit
        self._quotas = quotas
        self._streams = streams
        self._health = health
        self._together = together
        self._api = api
        self._behind = behind
        self._relayed = relayed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = responses.carrying(scope, send, self.cors.common(scope["headers"]))
        try:
            with self._room(scope):
                await self._answer(scope, receive, sending)
        except asyncio.CancelledError:
            if sending.begun:
                raise
            await responses.refuse(scope, sending, Draining())  # the server waits no longer; another Machine may answer
        except Exception as error:
            if sending.begun:
                raise  # nothing true can be said any more: the connection is closed
            await responses.refuse(scope, sending, refusal_for(scope, error))

    def admit(
        self, method: str, target: Target, headers: GivenHeaders, query: bytes, client: str = ""
    ) -> Principal | Pending:
        """Admits a request: returns its principal, or a coroutine function to call where a database or an issuer has to
        be asked.

        Called once for each request, when its head is there. `client` is the address that a request without a
        credential counts for. Raises a ProtocolError, and so does the coroutine.
        """
        if method == "TRACE":  # it would show to a script what its browser adds to a request (RFC 9110 §9.3.8)
            raise MethodNotAllowed(None, [(b"allow", _METHODS)])
        if query.count(b"&") >= MOST_FIELDS:
            raise InvalidRequest(f"A query has at most {MOST_FIELDS} fields.")
        admitted = self._admit(method, target, headers, query)
        if self._quotas.judging:
            return partial(self._judge, admitted, method, target, client)
        return admitted

    def take(self, post: Post) -> bool:
        """Takes a POST that came past ASGI, and has come whole. False: ASGI has to answer it."""
        try:
            return self._streams.append(post)
        except ProtocolError:
            return False
        except Exception as error:  # noqa: BLE001  logged with its traceback
            post.refuse(refusal_for(post.scope, error))
            return True

    @property
    def past_asgi(self) -> bool:
        """True if POSTs may come past ASGI at all: a request that counts for its address is held until its answer."""
        return self._quotas.addresses is None

    def _room(self, scope: Scope) -> AbstractContextManager[None]:
        """A place among the requests that its client's address may have open. Raises TooManyRequests."""
        relayed = self._relayed is not None and self._relayed(scope)  # each request: it takes an order, or a claim, off
        addresses = self._quotas.addresses
        return _FREE if relayed or addresses is None else addresses.one(open_at(addresses, scope))

    async def _answer(self, scope: Scope, receive: Receive, send: Sending) -> None:
        method, target = scope["method"], target_of(scope)
        if self._behind is not None and method != "TRACE" and not ours(target):
            await self._behind(scope, receive, send)
            return
        if is_preflight(scope):
            await responses.preflight(scope, send)
            return
        admitted = self.admit(method, target, scope["headers"], scope["query_string"], client_of(scope))
        principal = admitted if isinstance(admitted, Principal) else await admitted()
        let_in(scope, principal)
        _tell_whose(scope, principal)
        if target.stream is not None:
            await self._streams(target, scope, receive, send)
        elif target.path in HEALTH and method in ("GET", "HEAD"):
            await self._health(scope, receive, send)
        elif target.path == appends.ROUTE and method == "POST":
            await self._together(scope, receive, send)
        else:
            api = await self._api()
            with suppress(Exception):  # Starlette raises once more what it has had logged and answered
                await api(scope, receive, send)

    async def _judge(self, admitted: Principal | Pending, method: str, target: Target, client: str) -> Principal:
        principal = admitted if isinstance(admitted, Principal) else await admitted()
        await self._quotas.judge(method, target, principal, client)
        return principal


def _tell_whose(scope: Scope, principal: Principal) -> None:
    """Tells the connection the tenant of its request, so that tenants take turns; behind a proxy there are several."""
    connection: Any = scope.get("extensions", {}).get(EXTENSION)
    if connection is not None and principal is not NOBODY:
        through = any(name == b"x-forwarded-for" for name, _ in scope["headers"])
        connection.is_of(None if through else principal.tenant)


def refusal_for(scope: Scope, error: Exception) -> ProtocolError:
    """The refusal for an error: a ProtocolError as it is; any other is one inside, of which the log tells more."""
    if isinstance(error, ProtocolError):
        return error
    request_log.failed(scope, error)
    return InternalFault()
