"""The server, as far as it differs from uvicorn's."""

from __future__ import annotations

import asyncio
from typing import cast

import uvicorn

from gateway.wire.outflow import Outflow
from gateway.wire.server import Server
from gateway.wire.transport import DirectProtocol


class Connection(DirectProtocol):
    """A connection that notes what it is told."""

    outflow = cast("Outflow", None)

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.raises = False

    def shutdown(self) -> None:
        self.ended.set()
        if self.raises:
            raise OSError

    def lapse(self, now: float) -> None: ...

    def weigh(self, waiting: dict[int, int]) -> None: ...

    def abort(self) -> None: ...


async def test_who_came_as_the_server_ended_is_told_of_it() -> None:
    """uvicorn tells once, and the loop may have accepted a connection by then that is not among them yet."""
    server = Server(uvicorn.Config("none"))
    early, late, faulty = Connection(), Connection(), Connection()
    faulty.raises = True
    connections = server.server_state.connections
    connections |= {early, faulty}
    await server._lapse()
    assert not early.ended.is_set(), "it is not told before the server ends"
    ticking = asyncio.create_task(server._tick())
    try:
        await early.ended.wait()
        await faulty.ended.wait()
        connections.add(late)
        await asyncio.wait_for(late.ended.wait(), 60)
    finally:
        ticking.cancel()
