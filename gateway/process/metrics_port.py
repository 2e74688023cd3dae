"""A second, small server beside the main one: /metrics on a port of its own, which the public need not reach.

/ready is there, too, and tells all, since nobody is asked for a credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

import uvicorn

from gateway.asgi import App, Receive, Scope, Send
from gateway.http import responses
from gateway.http.health import HEALTH, Health, HealthAnswers
from gateway.process.exit_codes import Failure
from gateway.process.sockets import address
from gateway.protocol.fields import accept_of
from gateway.protocol.headers import NO_STORE

BACKLOG: Final = 128
"""Connections that may wait: Prometheus opens one."""

Expose = Callable[[str], Awaitable[tuple[bytes, str]]]


@contextlib.asynccontextmanager
async def metrics_port(
    exposition: Expose,
    readiness: Callable[[], Awaitable[Health]],
    sockets: list[socket.socket],
) -> AsyncIterator[None]:
    """Serves while the block runs, a drain included; without sockets, nothing is served."""
    if not sockets:
        yield
        return
    config = uvicorn.Config(
        _application(exposition, HealthAnswers(readiness, lambda _: True)),
        ws="none",
        lifespan="off",
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
    )
    server = _Server(config)
    for sock in sockets:
        try:
            sock.listen(BACKLOG)  # here, since the loop says nothing of a port that another process has
        except OSError as error:
            raise Failure(f"cannot listen on {address(sock)} for metrics: {error.strerror}") from error
    serving = asyncio.create_task(server.serve(sockets))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _application(exposition: Expose, health: App) -> App:
    """An application of these routes alone, for a port that the public does not reach."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in ("/metrics", *HEALTH):
            await responses.respond(send, 404, [NO_STORE])
        elif scope["method"] not in ("GET", "HEAD"):
            await responses.respond(send, 405, [(b"allow", b"GET, HEAD"), NO_STORE])
        elif scope["path"] in HEALTH:
            await health(scope, receive, send)
        else:
            text, content_type = await exposition(accept_of(scope["headers"]).decode("latin-1"))
            await responses.respond(send, 200, [(b"content-type", content_type.encode()), NO_STORE], text)

    return application


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are handled by the main server
