"""The types of ASGI 3 (asgi.readthedocs.io), which the door and the routes of streams speak directly; and what a scope
tells.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from gateway.protocol.target import Target

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
"""Names in lower case and values, as bytes."""

TARGET: Final = "run_gateway.target"
"""The key under which a scope holds its Target, once it has been asked for."""


async def gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def target_of(scope: Scope) -> Target:
    """The target of an HTTP request."""
    target: Target | None = scope.get(TARGET)
    if target is None:
        target = scope[TARGET] = Target.of(scope["path"])
    return target


def base_url(scope: Scope, public_url: str | None) -> str:
    """The address by which clients know this server, with which links in answers begin: `public_url` where it is set,
    or else where this request was sent to, without a path.

    Behind a proxy that the server trusts (FORWARDED_ALLOW_IPS), the scheme is the client's own: uvicorn has put what
    X-Forwarded-Proto says into the scope. The host is that of the Host header, which a proxy has to pass on.
    """
    if public_url is not None:
        return public_url
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), None)
    if host is None:
        address, port = scope["server"]
        host = f"{address}:{port}"
    return f"{scope['scheme']}://{host}"


def client_of(scope: Scope) -> str:
    """The address of the client, or the one that a trusted proxy names."""
    return "" if scope["client"] is None else str(scope["client"][0])
