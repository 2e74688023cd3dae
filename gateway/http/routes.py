"""The interface of a layer of routes to the layer around it: streams, then runs, then the runs of a Flue app."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from gateway.asgi import Receive, Scope, Send
from gateway.http.fast_append import Post
from gateway.protocol.target import Target


class Routes(Protocol):
    """Answers a request for a stream, or below a run. Raises ProtocolError while nothing has been sent."""

    def __call__(self, target: Target, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]: ...

    def append(self, post: Post) -> bool:
        """Takes a POST that came past ASGI, and will answer it. False: it has taken nothing; the POST goes to ASGI.

        So does one that this refuses by raising a ProtocolError.
        """
        ...
