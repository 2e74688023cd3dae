"""The ports of whoever answers requests for streams: the stream routes, runs around them, a Flue app's in front."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.asgi import Receive, Scope, Send
from gateway.http.post import Post


class Routes(Protocol):
    """Answers a request for the stream at `path`. Raises ProtocolError while nothing has been sent."""

    def __call__(self, path: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]: ...


AppendDirectly = Callable[[Post], bool]
"""Takes a POST, and will answer it; False: it has to come by ASGI."""
