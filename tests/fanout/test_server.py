"""The timer of all connections: one that fails is ended, alone."""

from __future__ import annotations

import uvicorn

from gateway.wire.server import Server
from gateway.wire.transport import DirectProtocol


class Broken(DirectProtocol):
    """A connection whose every look fails."""

    def __init__(self) -> None:
        self.aborted = False

    def lapse(self, now: float) -> None:
        raise ZeroDivisionError

    def abort(self) -> None:
        self.aborted = True


async def test_a_connection_that_fails_ends_alone() -> None:
    server = Server(uvicorn.Config(lambda: None))
    both = [Broken(), Broken()]
    server.server_state.connections.update(both)
    await server.on_tick(10)
    assert all(one.aborted for one in both)
