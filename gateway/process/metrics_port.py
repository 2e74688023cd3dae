"""A second, small server beside the main one: /metrics on a port of its own, which the public need not reach.

/ready is there, too, and tells all, since nobody is asked for a credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import uvicorn

from gateway.http.health import Health, health_router
from gateway.metrics.page import metrics_app


@contextlib.asynccontextmanager
async def metrics_port(
    exposition: Callable[[str], Awaitable[tuple[bytes, str]]],
    readiness: Callable[[], Awaitable[Health]],
    sockets: list[socket.socket],
) -> AsyncIterator[None]:
    """Serves while the block runs, a drain included; without sockets, nothing is served."""
    if not sockets:
        yield
        return
    app = metrics_app(exposition)
    app.include_router(health_router(readiness, lambda _: True))
    config = uvicorn.Config(app, ws="none", lifespan="off", access_log=False, log_config=None, server_header=False)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are handled by the main server
