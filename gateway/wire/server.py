"""uvicorn's server, with one timer for all connections that keep it waiting, and short queues before a busy loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, Final, cast

import uvicorn

from gateway.outage import SeldomLogger
from gateway.wire.accepting import Accepting
from gateway.wire.outflow import Outflow
from gateway.wire.transport import DirectProtocol

LOOKS: Final = 250  # connections that are looked at in one turn of the loop; to close one takes 20 µs
_TURNS: Final = 3
seldom_logger: Final = SeldomLogger(logging.getLogger("gateway.wire.server"))


class Server(uvicorn.Server):
    """The server. Once a second, also while it shuts down, connections look whether clients keep them waiting."""

    _outflow: Outflow | None = None  # of its connections, once there was one

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if sockets is not None:
            self.config.http_protocol_class = cast("Any", Accepting(self.config.http_protocol_class, sockets))
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            await self._lapse()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own, which waits for all connections to end: those that keep it waiting are ended as before."""
        ticking = asyncio.ensure_future(self._tick())
        try:
            await super().shutdown(sockets)
        finally:
            ticking.cancel()
            await self._let_go()

    async def _let_go(self) -> None:
        """Ends the connections that are left. A loop cannot be closed while it has sockets, which it closes a turn or
        two after they were ended.
        """
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, DirectProtocol):
                connection.abort()
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _lapse(self, *, ends: bool = False) -> None:
        """Gives way after every LOOKS connections: those that came together are too late together. `ends`: the server
        does, of which a connection that was accepted last may not have been told.
        """
        now = asyncio.get_running_loop().time()
        connections = self.server_state.connections
        waiting: dict[int, int] = {}
        for looked, connection in enumerate(tuple(connections), 1):
            if looked % LOOKS == 0:
                await asyncio.sleep(0)
            if isinstance(connection, DirectProtocol) and connection in connections:
                try:
                    if ends:
                        connection.shutdown()
                    connection.lapse(now)
                    connection.weigh(waiting)
                    self._outflow = connection.outflow
                except Exception:
                    # What one connection raises must neither end the server nor keep others from being looked at.
                    seldom_logger.exception("Checking a connection's time-outs failed; the connection was aborted.")
                    connection.abort()
        if self._outflow is not None:
            self._outflow.held = sum(waiting.values())

    async def _tick(self) -> None:
        while True:
            await self._lapse(ends=True)
            await asyncio.sleep(1)
