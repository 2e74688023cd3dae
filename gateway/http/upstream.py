"""The application behind the gateway, to which every request goes that is not for the gateway itself.

Requests and answers are passed on piece by piece as they come: nothing is gathered, decompressed or redirected, and
nothing is sent twice except what RFC 9110 §9.2.2 lets a proxy repeat. It uses httpcore, the layer below httpx, which
leaves headers as the bytes that they are.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Final, Protocol
from urllib.parse import urlsplit

import httpcore

from gateway.asgi import Headers, Receive, Scope, Send, gone
from gateway.fanout.follower import EXTENSION
from gateway.http import informational, responses
from gateway.http.claims import is_claim
from gateway.http.pools import Pools
from gateway.http.request_log import request as named
from gateway.protocol.errors import MalformedHttp, ProtocolError
from gateway.tasks import in_its_turn
from gateway.wire.answers import header_lines, own_reason

logger = logging.getLogger("gateway.http.upstream")

CONNECT_TIMEOUT: Final = 5.0  # seconds; once connected, an answer may take as long as it likes
LOOK: Final = 1.0  # seconds between looks whether the client of a body that goes on is still there
IDLE_CONNECTIONS: Final = 100
IDLE: Final = 4.0  # seconds that a connection is kept for the next request: less than the 5 of a Node server

# RFC 9110 §7.6.1: these are about one connection, and end with it. A client may name more of them in Connection, but
# none that says where its message goes, or where it ends, or by which a proxy in between tells who the client is.
_HOP_BY_HOP: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade", b"expect")
)
_FOR_ALL: Final = frozenset((b"host", b"content-length", b"run-gateway-owner", b"run-gateway-tenant"))
_NO_BODY: Final = (204, 304)
_LAST_STATUS: Final = 599  # RFC 9110 §15: what is above is no answer
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # all but the tab (§5.5)
_REPEATABLE: Final = ("GET", "HEAD", "OPTIONS")  # without a body, that is
_CUT: Final = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)


class _NotHttp(Exception):
    """The application's answer is one that HTTP does not have."""


_FAULTS: Final = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.RemoteProtocolError, _NotHttp)


RELAYED: Final = "run_gateway.relayed"
"""The key under which a scope holds True if another gateway has sent the request on: its headers are as the upstream is
to get them.
"""
MOST_ROUNDS: Final = 8
"""Gateways that a request may pass one after the other: relays and pools of recorders may stand behind each other."""
_LOOP: Final = (b"cdn-loop", b"run-gateway")  # RFC 8586: what each of them adds, and nobody takes away

CUT: Final = "run_gateway.cut"
"""The key under which a scope may hold a future: when it is done, the upstream is left, and the answer has no end."""


class BadGateway(ProtocolError):
    """The application behind the gateway cannot be reached, or has not answered in HTTP."""

    status = 502
    type = "bad_gateway"


class GoesRound(ProtocolError):
    """The request goes round in a circle: the application behind the gateway is this or another gateway."""

    status = 508
    type = "loop_detected"


class UpgradeNotPassed(ProtocolError):
    """The gateway passes no WebSocket on to the application behind it."""

    status = 501
    type = "upgrade_not_passed"


class Peered(Protocol):
    """A connection, as `gateway.wire.transport`."""

    @property
    def peer(self) -> tuple[str, bool]: ...

    def lost(self) -> bool: ...

    def passed(self, size: int) -> None: ...

    def writable(self) -> bool: ...

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...

    def reset(self) -> None: ...


class Upstream:
    """Another server as an ASGI application. `origin` is such as `http://127.0.0.1:3000`. `options`: of its sockets."""

    def __init__(self, origin: str, options: Sequence[tuple[int, int, int]] = ()) -> None:
        url = urlsplit(origin)
        self._origin = origin
        self._scheme = url.scheme.encode()
        self._host = (url.hostname or "").encode("idna")
        self._port = url.port
        self._open: set[asyncio.Task[None]] = set()
        self._over = False  # a drain is, and what is passed on no longer lasts
        self._pools = Pools(
            lambda: httpcore.AsyncConnectionPool(
                max_connections=None,  # one for each request: the gateway limits those itself
                max_keepalive_connections=IDLE_CONNECTIONS,
                keepalive_expiry=IDLE,
                network_backend=informational.Backend(options),
            )
        )

    async def close(self) -> None:
        """Closes the connections that are kept for later requests."""
        await self._pools.aclose()

    def end(self) -> None:
        """A drain is over: what is still passed on is cut behind what has come of it, so that its client can tell."""
        self._over = True
        for exchange in tuple(self._open):
            exchange.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with what the application answers. Raises UpgradeNotPassed, and BadGateway while nothing was sent."""
        wishes = [value.lower() for name, value in scope["headers"] if name == b"upgrade"]
        if scope["method"] == "GET" and b"websocket" in wishes:
            raise UpgradeNotPassed
        request = _Request(receive, scope.get("extensions", {}).get(EXTENSION))
        exchange = asyncio.ensure_future(self._exchange(scope, request, send))
        self._open.add(exchange)
        exchange.add_done_callback(self._open.discard)
        left = asyncio.ensure_future(request.client_gone())
        cut: asyncio.Future[None] | None = scope.get(CUT)
        ends = (exchange, left) if cut is None else (exchange, left, cut)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:  # also when this is cancelled: the application need not go on with what nobody waits for
            for task in (exchange, left):
                task.cancel()
        try:
            with suppress(asyncio.CancelledError):
                await exchange
            ended = self._over and exchange.cancelled()
        finally:
            del exchange, task, ends  # or what it failed with, which knows this frame, would know itself
        if ended and not request.answered:
            raise BadGateway
        if ended or request.broken:
            await _cut_short(scope, receive)

    async def _exchange(self, scope: Scope, request: _Request, send: Send) -> None:
        await in_its_turn(informational.STEP)
        target: bytes = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        url = httpcore.URL(scheme=self._scheme, host=self._host, port=self._port, target=target)
        headers = forwarded(scope)
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)
        if not has_body:
            request.forgo()
        informational.told.set(passed_on(scope))
        repeatable = not has_body and scope["method"] in _REPEATABLE
        started = False

        async def once() -> None:
            nonlocal started
            async with self._pools.stream(
                scope["method"],
                url,
                headers=headers,
                content=request.body() if has_body else None,
                extensions={"timeout": {"connect": CONNECT_TIMEOUT}},
            ) as response:
                request.forgo()  # what was not sent of it is not wanted; from here on only the client's end matters
                answer = returned(response.status, response.headers)
                started = request.answered = True
                await begin(scope, send, response.status, answer, response.extensions.get("reason_phrase", b""))
                async for piece in response.aiter_stream():
                    await responses.piece(send, piece)

        try:
            try:
                await once()
            except _CUT:
                if started or not repeatable:
                    raise
                await once()  # a kept connection may have ended in the moment in which it was used again
        except _FAULTS as error:
            told = named(scope) if started else named(scope) | {"status": BadGateway.status}
            logger.warning("The upstream %s failed (%s).", self._origin, type(error).__name__, extra={"request": told})
            if started:
                request.broken = True
                return
            raise BadGateway from error
        except httpcore.LocalProtocolError as error:
            if started:
                request.broken = True  # what was left of the request's body is not what its length says
                return
            raise MalformedHttp("A header of the request cannot be passed on.") from error
        await responses.finish(send)


class _Request:
    """The body of a request as it arrives, and then whether its client is still there."""

    def __init__(self, receive: Receive, connection: Peered | None) -> None:
        self.answered = False  # the head of its answer is on its way to the client
        self.broken = False  # the rest of that will not come, which its client has to see
        self._receive = receive
        self._connection = connection
        self._read = asyncio.Event()
        self._more = True

    async def body(self) -> AsyncIterator[bytes]:
        """Its pieces. Ends early when the client goes in the middle; then `client_gone` returns."""
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._read.set()
                await asyncio.Event().wait()  # until cancelled: this must not be taken for the end of the body
            self._more = message.get("more_body", False)
            piece: bytes = message.get("body", b"")
            if self._connection is not None:
                self._connection.passed(len(piece))  # it is kept no longer, and takes nobody's room
            yield piece
        self._read.set()

    async def client_gone(self) -> None:
        """Returns when the client has gone. While its body waits for the upstream, nothing of it is asked for, and only
        the connection tells.
        """
        while not self._read.is_set():
            if self._connection is not None and self._connection.lost():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def forgo(self) -> None:
        """Leaves the rest of the body unread: there is none, or it is not needed."""
        self._read.set()


def forwarded(scope: Scope) -> Headers:
    """A request's headers as the upstream gets them: untouched, without the connection's own, with X-Forwarded-*.

    What a trusted proxy says of its client is passed on. From any other sender it is a claim, which is replaced by what
    the gateway knows. Raises GoesRound.
    """
    headers = _end_to_end(scope["headers"])
    if scope.get(RELAYED):
        if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
            headers.append((b"transfer-encoding", b"chunked"))
        return headers
    if sum([value.count(_LOOP[1]) for name, value in headers if name == _LOOP[0]]) >= MOST_ROUNDS:
        raise GoesRound(f"It has passed {MOST_ROUNDS} gateways. GATEWAY_UPSTREAM leads back here.")
    headers.append(_LOOP)
    peer, trusted = _peer(scope)
    if not trusted:
        headers = [header for header in headers if not is_claim(header[0])]
    there = {name for name, _ in headers}
    if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
        headers.append((b"transfer-encoding", b"chunked"))
    if b"host" not in there:
        host, port = scope["server"]
        headers.append((b"host", f"{host}:{port}".encode()))
    if peer:
        before = [value for name, value in headers if name == b"x-forwarded-for"]
        headers = [header for header in headers if header[0] != b"x-forwarded-for"]
        headers.append((b"x-forwarded-for", b", ".join([*before, peer.encode()])))
    if b"x-forwarded-proto" not in there:
        headers.append((b"x-forwarded-proto", scope["scheme"].encode()))
    if b"x-forwarded-host" not in there:
        headers.append((b"x-forwarded-host", next(value for name, value in headers if name == b"host")))
    return headers


def _peer(scope: Scope) -> tuple[str, bool]:
    """The address at the other end of the connection, and whether it is a proxy that FORWARDED_ALLOW_IPS trusts.

    Where such a proxy names a client, the scope's `client` is that one. Under another server than ours no peer is
    trusted.
    """
    connection: Peered | None = scope.get("extensions", {}).get(EXTENSION)
    if connection is not None:
        return connection.peer
    return ("" if scope["client"] is None else scope["client"][0]), False


def lost(scope: Scope) -> bool:
    """Whether the client has gone, as far as the server tells."""
    connection: Peered | None = scope.get("extensions", {}).get(EXTENSION)
    return connection is not None and connection.lost()


def passed_on(scope: Scope) -> informational.Told | None:
    """Writes to the client what comes before an answer. None for a client of HTTP/1.0, which knows no such thing.

    A client that does not read gets none: they are hints, and nobody keeps them for it.
    """
    connection: Peered | None = scope.get("extensions", {}).get(EXTENSION)
    if connection is None or scope["http_version"] != "1.1":
        return None

    def write(line: bytes, headers: Headers) -> None:
        if not connection.lost() and connection.writable():
            lines = header_lines([header for header in _end_to_end(headers) if header[0].lower() != b"content-length"])
            connection.write(b"%b\r\n%b\r\n" % (line, lines))

    return write


async def _cut_short(scope: Scope, receive: Receive) -> None:
    """Closes the connection behind what was sent of an answer that is not whole.

    By HTTP/1.1 its end is missing then. By HTTP/1.0, where a body ends with its connection, that is reset.
    """
    connection: Peered | None = scope.get("extensions", {}).get(EXTENSION)
    if connection is None:
        return  # another server than ours, which sees that there is no end
    if scope["http_version"] == "1.0":
        connection.reset()
    else:
        connection.close()
    await gone(receive)


async def begin(scope: Scope, send: Send, status: int, headers: Headers, reason: bytes) -> None:
    """The head of an answer that is passed on; with its own phrase, where our own server writes it."""
    ours = EXTENSION in scope.get("extensions", {})
    await send(
        {"type": "http.response.start", "status": status, "headers": headers}
        | (own_reason(status, reason) if ours else {})
    )


def returned(status: int, headers: Headers) -> Headers:
    """An answer's headers as the client gets them. Without Date, which our own server writes. Raises _NotHttp."""
    if status > _LAST_STATUS or any(_CONTROL.search(value) for _, value in headers):
        raise _NotHttp
    dropped = (b"date", b"content-length") if status in _NO_BODY else (b"date",)
    return [header for header in _end_to_end(headers) if header[0].lower() not in dropped]


def _end_to_end(headers: Headers) -> Headers:
    """Without those that are about one connection, by their names or because Connection names them."""
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    ended = _HOP_BY_HOP | {name for name in named - _FOR_ALL if not is_claim(name)}
    return [(name, value.strip(b" \t")) for name, value in headers if name.lower() not in ended]
