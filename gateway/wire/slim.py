"""Parts of a connection in the place of uvicorn's and asyncio's: with the same interface, smaller, or more exact."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
from asyncio import Transport
from typing import Any, cast

from uvicorn.protocols.http.flow_control import FlowControl

from gateway.tasks import wake


class Event:
    """asyncio.Event without its deque, which takes 0.6 kB before anybody waits. Who waits goes on by `wake`: a thousand
    sockets may have room, or the rest of a request, in the same turn of the loop.
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
