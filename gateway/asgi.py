"""The types of ASGI 3 (asgi.readthedocs.io), which the entry and the routes of streams speak directly."""

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
"""The key under which a scope holds its Target, once somebody has asked for it."""


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
