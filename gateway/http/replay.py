"""Tells Fly's proxy to replay appends in the primary region (`fly-replay`), if a setting asks for it.

A commit takes one round trip to the database from whichever Machine, so a single append gains nothing. But the appends
of several regions then share commits, and far Machines need fewer connections to the database.
https://fly.io/docs/networking/dynamic-request-routing/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.asgi import App, Headers, Receive, Scope, Send
from gateway.http import responses
from gateway.http.request_log import appended_to

MOST_BYTES: Final = 1_000_000  # of a body; a larger one cannot be replayed

STAYS: Final = "run_gateway.stays"
"""The key under which a scope holds True if its answer has to pass by here, so that no proxy may take it elsewhere."""


class Replay:
    """Wraps an application: an append is answered with the order to replay it in `region`, if Fly's proxy can do so.

    The answer is for the proxy. Its status is 503, so that a client that sees it all the same takes it for no success.
    """

    def __init__(self, app: App, region: str) -> None:
        self._app = app
        self._answer: Headers = [(b"fly-replay", f"region={region}".encode()), (b"retry-after", b"1")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if appended_to(scope) is not None and replayable(dict(scope["headers"])):
            await responses.respond(send, 503, self._answer)
        else:
            await self._app(scope, receive, send)


def replayable(headers: Mapping[bytes, bytes]) -> bool:
    """True if Fly's proxy brought this request, has its whole body, and has not replayed it yet."""
    length = headers.get(b"content-length", b"")
    return (
        b"fly-request-id" in headers
        and b"fly-replay-src" not in headers
        and b"fly-replay-failed" not in headers
        and length.isdigit()
        and int(length) <= MOST_BYTES
    )
