"""The log of requests: at most one line each, with an id that the client is given too, and never the query.

A request that fails by the gateway's own fault, or because the database is away, is logged at error or warning. Every
other refusal is due to the client: it is counted (`run_gateway_refusals_total`) and logged at debug. `AccessLog` logs
every request. It is wrapped around the application only if a setting asks for it, and costs nothing otherwise.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any, Final

from gateway.asgi import App, Message, Receive, Scope, Send, target_of
from gateway.protocol.errors import InternalFault, ProtocolError, Unavailable

logger = logging.getLogger("gateway.http")

_GIVEN: Final = (b"fly-request-id", b"x-request-id")  # by a proxy or the client, best first
_PLAIN: Final = re.compile(rb"[\w.:/+=-]{1,128}")
_ID: Final = "gateway.request_id"
_OUTCOME: Final = "gateway.outcome"  # where an AccessLog, if there is one, is told of a refusal


class Seldom:
    """A limit of one line a second for each kind, so that no client can fill the log; the metrics count all."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[float, int]] = {}  # when the last line was, and how many were held back since

    def more(self, kind: str, now: float) -> int | None:
        """The number of lines of a kind that were held back since its last one; None: this line is held back, too."""
        last, held = self._kinds.get(kind, (-1.0, 0))
        if last >= 0 and now - last < 1:
            self._kinds[kind] = last, held + 1
            return None
        self._kinds[kind] = now, 0
        return held


_seldom: Final = Seldom()


def appended_to(scope: Scope) -> str | None:
    """The path, as the client knows it, of the stream that a request appends to; None for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    return target_of(scope).stream


def request_id(scope: Scope) -> str:
    """The id that a proxy or the client gave the request, or else a new one, which later calls return as well."""
    known: str | None = scope.get(_ID)
    if known is None:
        headers = dict(scope["headers"])
        given = next((headers[name] for name in _GIVEN if name in headers), b"")
        known = scope[_ID] = given.decode() if _PLAIN.fullmatch(given) else secrets.token_hex(8)
    return known


def request(scope: Scope) -> dict[str, Any]:
    """The fields that name a request in the log.

    The path is as it came, with its escapes; the query may hold a token.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    path = raw.partition(b"?")[0].decode("ascii", "backslashreplace")
    return {"request_id": request_id(scope), "method": scope["method"], "path": path}


def refused(scope: Scope, error: ProtocolError) -> None:
    """Logs a refusal at the level that it deserves. An InternalFault was logged by `failed` already."""
    if _OUTCOME in scope:
        scope[_OUTCOME]["refusal"] = error.type
        return
    level = logging.WARNING if isinstance(error, Unavailable) else logging.DEBUG
    if logger.isEnabledFor(level) and not isinstance(error, InternalFault):
        more = _seldom.more(error.type, time.monotonic())
        if more is None:
            return
        cause = {} if error.__cause__ is None else {"cause": type(error.__cause__).__name__}
        fields = request(scope) | {"status": error.status, "refusal": error.type} | cause
        logger.log(level, "A request was refused.", extra={"request": fields | ({"unlogged": more} if more else {})})


def failed(scope: Scope, error: BaseException) -> None:
    """Logs an unexpected error. The client is told none of it."""
    logger.error("A request failed.", exc_info=error, extra={"request": request(scope) | {"status": 500}})


class AccessLog:
    """Wraps an application, and logs a line at info for each request when its response has ended.

    Appends then come through ASGI, which is slower: an answer that is written past ASGI could not be seen here.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        fields = request(scope)  # now: a reader's scope is emptied while it follows
        outcome = scope[_OUTCOME] = {"status": 0}
        began = time.monotonic()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                outcome["status"] = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            fields |= outcome | {"seconds": round(time.monotonic() - began, 4)}
            logger.info("A request was answered.", extra={"request": fields})
