"""What whoever answers requests for streams looks like: the stream routes, runs around them, a Flue app's in front."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway.fanout.transport import Cycle
from gateway.http.responses import Receive, Scope, Send


class Routes(Protocol):
    """Answers a request for the stream at `path`. Raises ProtocolError while nothing has been sent."""

    def __call__(self, path: str, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]: ...


AppendDirectly = Callable[[str, str, Cycle], bool]
"""Path and tenant of an append, and its request, which it may answer; False: it has to come in by ASGI."""
