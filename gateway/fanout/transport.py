"""uvicorn's HTTP protocol, with a door for the hub: once a response has begun, frames go straight to the socket.

A handler finds its connection in `scope["extensions"]`. Where this class is not in use, it finds nothing, and the
same loop writes through ASGI `send`: slower, not different.
"""

from __future__ import annotations

from typing import cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.fanout.follower import EXTENSION, Follower


class DirectProtocol(HttpToolsProtocol):
    """A connection that tells its follower when it is full, empty again, or gone."""

    follower: Follower | None = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: cast("dict[object, object]", self)}

    def lost(self) -> bool:
        """Whether nobody can be reached here any more."""
        return self.transport.is_closing()

    def write(self, data: bytes) -> None:
        """Ready-made chunks of the response that is under way."""
        self.transport.write(data)

    def writable(self) -> bool:
        return not self.flow.write_paused

    async def drain(self) -> None:
        await self.flow.drain()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.follower is not None:
            self.follower.wake()  # it leaves the tail, and catches up when the socket drains (law 6)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.follower is not None:
            self.follower.end()
