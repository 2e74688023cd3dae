"""Parts of a connection in the place of uvicorn's and asyncio's: with their interface, smaller, or more exact."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
from asyncio import Transport
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.fanout.follower import EXTENSION
from gateway.tasks import wake

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent

    from gateway.wire.transport import DirectProtocol


class Event:
    """asyncio.Event without its deque, which takes 0.6 kB before a task waits. Those that wait go on by `wake`: a
    thousand sockets may have room, or the rest of a request, in the same turn of the loop.
    """

    __slots__ = ("_set", "_waiters")

    def __init__(self, is_set: bool = False) -> None:
        self._set = is_set
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def set(self) -> None:
        self._set = True
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            wake(waiter)

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    async def wait(self) -> None:
        if not self._set:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            await waiter


class Flow(FlowControl):
    """uvicorn's own, which resumes reading as soon as a handler reads its request; this one not while it is stopped."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._is_writable_event = cast("Any", Event(True))
        self.stopped = False  # more has come than may wait for its turn

    def stop(self) -> None:
        self.stopped = True
        self.pause_reading()

    def go_on(self) -> None:
        """Reads on, if nothing else keeps it from reading."""
        if self.stopped:
            self.stopped = False
            if not self.write_paused:
                self.resume_reading()

    def resume_reading(self) -> None:
        if not self.stopped:
            super().resume_reading()


class Cycle(RequestResponseCycle):
    """uvicorn's state of one request, which does not close a connection on which the rest of that request is still to
    come: that would be a reset, which could destroy the answer (RFC 9112 §9.6).
    """

    def send(self, message: ASGISendEvent) -> Coroutine[Any, Any, None]:
        """uvicorn's own, as an ASGI application calls it. A head may have a `reason`, the phrase behind its status, and
        a body `parts` in its place.
        """
        if "reason" in message:
            return self._begin(message)
        if "parts" in message:
            return self._send_parts(message)
        if self.keep_alive or not self.more_body or message.get("more_body", False) or not self.response_started:
            return super().send(message)
        return self._end(message)

    async def _begin(self, message: ASGISendEvent) -> None:
        transport = self.transport
        head = cast("dict[str, Any]", message)
        self.transport = cast("Any", _Phrased(transport, head["status"], head["reason"]))
        try:
            await super().send(message)
        finally:
            self.transport = transport

    async def _send_parts(self, message: ASGISendEvent) -> None:
        """Sends parts of a body that goes on as one chunk. None is copied, and all of them are written together."""
        parts = cast("dict[str, Any]", message)["parts"]
        if not self.chunked_encoding or self.scope["method"] == "HEAD":
            await super().send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
            return
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if not self.disconnected:
            self.transport.write(b"%x\r\n" % sum(map(len, parts)))
            for part in parts:
                self.transport.write(part)
            self.transport.write(b"\r\n")

    async def _end(self, message: ASGISendEvent) -> None:
        connection: DirectProtocol | None = self.scope.get("extensions", {}).get(EXTENSION)  # type: ignore[assignment]
        self.keep_alive = connection is not None
        await super().send(message)
        self.keep_alive = False
        if connection is not None and not self.disconnected:
            connection.linger()


class _Phrased:
    """Writes a head with this phrase in the place of the standard's, which is all that uvicorn knows."""

    def __init__(self, transport: Transport, status: int, reason: bytes) -> None:
        self._transport = transport
        self._line = b"HTTP/1.1 %d %b" % (status, reason)

    def write(self, head: bytes) -> None:
        self._transport.write(self._line + head[head.index(b"\r\n") :])


def in_kernel(sock: socket.SocketType) -> int:
    """Bytes that were sent and are not acknowledged by the client yet; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import fcntl
    import termios

    size: int
    (size,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
    return size


def has_left(sock: socket.SocketType) -> bool:
    """True if the client has ended its side of a connection that is not being read. False where the system does not
    tell.

    The system tells it also behind bytes that were not read, once the end has arrived.
    """
    if not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
