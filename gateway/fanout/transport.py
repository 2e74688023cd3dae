"""uvicorn's HTTP protocol, with a door for the hub: once a response has begun, frames go straight to the socket.

A handler finds its connection in `scope["extensions"]`. Where this class is not in use, it finds nothing, and the
same loop writes through ASGI `send`: slower, not different.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from asyncio import Transport
from collections.abc import Collection
from typing import Any, ClassVar, Final, cast

import uvicorn
from httptools import HttpParserError, HttpParserUpgrade
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.fanout.follower import EXTENSION, Follower
from gateway.protocol.errors import HeadTooLarge, MalformedHttp, ProtocolError, RequestTimeout, TooManyConnections

Cycle = RequestResponseCycle  # uvicorn's state of one request

LINGER: Final = 2.0  # seconds that a refused connection is still read from
IDLE_END: Final = 0.5  # seconds that an idle connection outlives the port
WHOLE: Final = -1  # bytes of a head: something of a request has just come whole


class _Event:
    """asyncio.Event without its deque, which takes 0.6 kB before anybody waits."""

    __slots__ = ("_set", "_waiters")

    def __init__(self, is_set: bool = False) -> None:
        self._set = is_set
        self._waiters: tuple[asyncio.Future[None], ...] = ()

    def set(self) -> None:
        self._set = True
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    async def wait(self) -> None:
        if not self._set:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            await waiter


class _Pipeline(list[Any]):
    """The requests that wait for the one before them; an empty deque would take 0.6 kB."""

    __slots__ = ()

    def appendleft(self, request: Any) -> None:
        self.insert(0, request)


class _Flow(FlowControl):
    """uvicorn's own, which goes on reading as soon as any request is looked at: not while others wait behind it."""

    def __init__(self, transport: Transport, pipeline: Collection[Any]) -> None:
        super().__init__(transport)
        self._is_writable_event = cast("Any", _Event(True))
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if not self._pipeline:
            super().resume_reading()


class DirectProtocol(HttpToolsProtocol):
    """A connection that tells its follower when it is full, empty again, or gone."""

    patience: ClassVar[float] = 60.0  # seconds that a request may take to arrive
    send_patience: ClassVar[float] = 120.0  # seconds that a client may take no byte of what waits for it
    head_limit: ClassVar[int] = 32 << 10  # bytes of a request's line and headers, give or take a read
    most: ClassVar[int] = sys.maxsize  # connections; those beyond are refused what is not in `always`
    always: ClassVar[Collection[str]] = ()  # paths that even they may ask for

    # uvicorn's own attributes fill the dict that instances of a class share the keys of (30): one more, and each
    # connection has a dict of its own, of 1.5 kB.
    __slots__ = (
        "_due", "_ending", "_head", "_in_head", "_over", "_socket", "_surplus", "_unsent", "follower", "send",
    )  # fmt: skip

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self.follower: Follower | None = None
        self._due = self.loop.time() + self.patience  # when it has kept us waiting for too long; 0: it does not
        self._in_head = False  # a request has begun, and its head has not come whole
        self._head = 0  # bytes that have come since anything of a request was whole
        self._unsent: tuple[int, float] | None = None  # bytes that wait for the client, and since when so many do
        self._ending = False
        self.pipeline = cast("Any", _Pipeline())
        self._over = False  # refused; what still comes is of no interest

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._surplus = len(self.connections) > self.most
        # uvicorn knows of a socket that is full only from here; at a mark of 0 it is so as soon as a byte is buffered,
        # and while it is not, nothing can be overtaken by what `send` sends.
        transport.set_write_buffer_limits(0)
        # A frame is sent a thousand times: straight to the kernel, for a twelfth less than by way of the transport, and
        # as a message, for a twentieth less than by write(2), which goes by way of the file. The transport owns the
        # descriptor, and closes it after `connection_lost`, where this one lets go of it.
        fd = transport.get_extra_info("socket").fileno()
        self._socket = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd)  # the family plays no part in it
        self.send = self._socket.send

    def data_received(self, data: bytes) -> None:
        """uvicorn's own, with a bound for what it keeps, and refusals in the shape of all others."""
        step = self.head_limit
        pieces = (data,) if len(data) <= step else [data[at : at + step] for at in range(0, len(data), step)]
        for piece in pieces:
            if self._over or self.transport.is_closing():
                return
            try:
                self.parser.feed_data(piece)
            except HttpParserUpgrade:
                self.cycle.keep_alive = False  # RFC 9110 §7.8: it may be ignored; but what follows is no HTTP/1.1
                return
            except HttpParserError:
                self._refuse(MalformedHttp())
                return
            # Heads, and whatever else is none of the body: trailers, and what may stand behind a chunk's size.
            self._head = 0 if self._head == WHOLE else self._head + len(piece)
            if self._head > step:
                self._refuse(HeadTooLarge(f"At most {step} bytes."))

    def lapse(self, now: float) -> None:
        """Ends a connection that has kept us waiting: for a request to come whole, for the next one, or for somebody to
        read what was sent.
        """
        if self._takes_nothing(now):
            # Reset: or else the system would go on offering megabytes to somebody who takes none.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
            return
        if not self._due or now < self._due or self.flow.read_paused:
            return  # what we do not read ourselves is not late
        cycle = self.cycle
        begun = self._in_head or (cycle is not None and cycle.more_body and not cycle.response_complete)
        if begun and not self._over:
            self._refuse(RequestTimeout())
        else:
            self.transport.close()

    def _takes_nothing(self, now: float) -> bool:
        """Whether the client has read nothing for too long; it has until then to come back to what waits for it."""
        if not self.flow.write_paused:
            self._unsent = None
            return False
        left = self.transport.get_write_buffer_size() + _in_kernel(self._socket)
        if self._unsent is None or self._unsent[0] != left:
            self._unsent = left, now
        return now - self._unsent[1] > self.send_patience

    def _refuse(self, error: ProtocolError) -> None:
        """Says why, unless that would be taken for the answer to an earlier request, and ends the connection."""
        cycle = self.cycle
        ours = cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started)
        rendered = self.refusal(error) if ours and not self.pipeline else None
        if rendered is None:
            self.transport.close()
            return
        status, head, body = rendered
        self.transport.write(whole(status, self.server_state.default_headers, head, body, keep_alive=False))
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.linger()

    def refusal(self, error: ProtocolError) -> tuple[int, bytes, bytes] | None:
        """Status, header lines and body for what is refused before there is a request; None: nothing is said."""
        return None

    def linger(self) -> None:
        """Ends a connection whose request has not come whole. What still comes is read and thrown away for a moment,
        for to close at once would be a reset, and take the answer with it (RFC 9112 §9.6).
        """
        self._over = True
        self._due = self.loop.time() + LINGER
        self.transport.write_eof()

    def on_response_complete(self) -> None:
        """uvicorn's own, without a timer for each request."""
        self.server_state.total_requests += 1
        if self._over or self.transport.is_closing():
            return
        if self._ending:
            self.transport.close()
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._due = self.loop.time() + (self.patience if self._in_head else self.timeout_keep_alive)
        self._read_on()

    def _read_on(self) -> None:
        """Takes more requests, unless there are some that wait, or answers that the client has not read."""
        if self.flow.write_paused:
            self.flow.pause_reading()
            return
        if self.flow.read_paused and self._due:
            self._due = self.loop.time() + self.patience  # it is not late: we have not read
        self.flow.resume_reading()

    def shutdown(self) -> None:
        """The server ends. A connection that is idle is kept for a moment longer, for a request may be on its way."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self._ending = True
            self.loop.call_later(IDLE_END, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _start_asgi_task(self, cycle: Cycle, app: ASGI3Application) -> None:
        scope = cycle.scope
        if scope["http_version"] == "1.1" and [name for name, _ in scope["headers"]].count(b"host") != 1:
            self._refuse(MalformedHttp("There must be one Host header."))  # RFC 9112 §3.2
            return
        if self._surplus and scope["path"] not in self.always:
            self._refuse(TooManyConnections(f"At most {self.most} at once."))
            return
        cycle.message_event = cast("Any", _Event(cycle.message_event.is_set()))
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        """uvicorn's own, without the scope."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head = 0
        self._due = self.loop.time() + self.patience

    def on_headers_complete(self) -> None:
        """uvicorn's own, and the scope, for which there was no need before."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the list is the scope's
        self.scope["extensions"] = {EXTENSION: cast("dict[object, object]", self)}
        super().on_headers_complete()
        self._in_head = False
        self._head = WHOLE
        self.headers = []  # what still comes are trailers, and no part of the head (RFC 9110 §6.5.1)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._head = WHOLE

    def on_message_complete(self) -> None:
        self.arrived()
        super().on_message_complete()

    def arrived(self) -> None:
        """A request has come whole."""
        self._head = WHOLE
        if not self.cycle.response_complete:  # else the next request is waited for already
            self._due = 0.0
        if self._ending:
            self.cycle.keep_alive = False

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def lost(self) -> bool:
        """Whether nobody can be reached here any more."""
        return self.transport.is_closing()

    def writable(self) -> bool:
        return not self.flow.write_paused

    async def drain(self) -> None:
        await self.flow.drain()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.follower is not None:
            self.follower.wake()  # it leaves the tail, and catches up when the socket drains (law 6)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._socket.detach()  # from here on `send` fails, whoever the number belongs to by then
        super().connection_lost(exc)
        if self.follower is not None:
            self.follower.end()


class Server(uvicorn.Server):
    """uvicorn, with one timer for all connections that keep it waiting."""

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # once a second
            self._lapse()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's own, which waits for all connections to end: those that keep it waiting are ended as before."""
        ticking = asyncio.ensure_future(self._tick())
        try:
            await super().shutdown(sockets)
        finally:
            ticking.cancel()

    def _lapse(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, DirectProtocol):
                connection.lapse(now)

    async def _tick(self) -> None:
        while True:
            self._lapse()
            await asyncio.sleep(1)


def _in_kernel(sock: socket.SocketType) -> int:
    """Bytes that have been sent and are not acknowledged yet, as far as the system tells."""
    if sys.platform == "win32":
        return 0
    import fcntl
    import termios

    size: int
    (size,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))
    return size


class _Joined:
    """The lines of the server's own headers. uvicorn makes a list of them once a second, in which the date stands."""

    def __init__(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._lines = b""

    def of(self, headers: list[tuple[bytes, bytes]]) -> bytes:
        if headers is not self._headers:
            self._headers, self._lines = headers, b"".join([b"%b: %b\r\n" % header for header in headers])
        return self._lines


_own: Final = _Joined()


def whole(status: int, own: list[tuple[bytes, bytes]], head: bytes, body: bytes, keep_alive: bool) -> bytes:
    """A whole response. `own`: the server's headers; `head`: the other header lines, each with its CRLF."""
    end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
    return b"".join((STATUS_LINE[status], _own.of(own), head, end, body))


def answer(cycle: Cycle, status: int, head: bytes, body: bytes) -> None:
    """Writes a whole response at once, past ASGI's two messages: checking every header's characters again, as they
    do, is a third of an append. `head`: as for `whole`.
    """
    if cycle.disconnected:
        return
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    shown = b"" if cycle.scope["method"] == "HEAD" else body
    cycle.transport.write(whole(status, cycle.default_headers, head, shown, cycle.keep_alive))
    if not cycle.keep_alive:
        connection = cycle.scope.get("extensions", {}).get(EXTENSION)
        if cycle.more_body and isinstance(connection, DirectProtocol):
            connection.linger()
        else:
            cycle.transport.close()
    cycle.on_response()


def cycle_of(send: Any) -> Cycle | None:
    """uvicorn's own state of a request, where `send` is its own and nothing has been sent or is held up."""
    cycle = getattr(send, "__self__", None)
    if type(cycle) is Cycle and not cycle.response_started and not cycle.flow.write_paused:
        return cycle
    return None
