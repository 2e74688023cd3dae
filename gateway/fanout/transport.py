"""uvicorn's HTTP protocol, and a way past it for the hub: once a response has begun, frames go straight to the socket.

A handler finds its connection in `scope["extensions"]`. Under another server it finds none there, and the same handler
writes through ASGI's `send`, which is slower, and otherwise the same.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from asyncio import Transport
from collections.abc import Collection
from typing import Any, ClassVar, Final, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.fanout.answers import Cycle, whole
from gateway.fanout.follower import EXTENSION, Follower
from gateway.fanout.parts import Event, Flow, Pipeline, in_kernel
from gateway.protocol.errors import (
    HeadTooLarge,
    InternalFault,
    MalformedHttp,
    ProtocolError,
    RequestTimeout,
    TooManyConnections,
)

logger = logging.getLogger("gateway.fanout.transport")

LINGER: Final = 2.0  # seconds that a refused connection is still read from
IDLE_END: Final = 0.5  # seconds that an idle connection outlives the port
WHOLE: Final = -1  # in the place of a count of bytes: something of a request has just come whole


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
        self._due = (
            self.loop.time() + self.patience
        )  # when the client is too late, by the loop's clock; 0: nothing is waited for
        self._in_head = False  # a request has begun, and its head has not come whole
        self._head = 0  # bytes that have come since anything of a request was whole
        self._unsent: tuple[int, float] | None = None  # bytes that wait for the client, and since when so many do
        self._ending = False
        self.pipeline = cast("Any", Pipeline())
        self._over = False  # refused: whatever still comes is thrown away

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline)
        self._surplus = len(self.connections) > self.most
        # uvicorn learns that a socket is full by this mark. At 0 it does as soon as one byte is buffered; so as long
        # as it is not full nothing is buffered, and what `send` sends overtakes nothing.
        transport.set_write_buffer_limits(0)
        # A frame may be sent a thousand times. By this socket that costs a twelfth less than by the transport, and as a
        # message (send) a twentieth less than by write(2). The transport owns the descriptor: it closes it after
        # `connection_lost`, where this object lets go of it.
        fd = transport.get_extra_info("socket").fileno()
        self._socket = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd)  # the family plays no part in it
        self.send = self._socket.send

    def data_received(self, data: bytes) -> None:
        """uvicorn's own, with a limit for what it keeps in memory, and with refusals in the one shape."""
        step = self.head_limit
        pieces = (data,) if len(data) <= step else [data[at : at + step] for at in range(0, len(data), step)]
        for piece in pieces:
            if self._over or self.transport.is_closing():
                return
            try:
                self.parser.feed_data(piece)
            except HttpParserUpgrade:
                self.cycle.keep_alive = False  # it may be ignored (RFC 9110 §7.8), but what follows may be no HTTP/1.1
                return
            except HttpParserError as error:
                self._refuse(_judged(error))
                return
            # Counts heads, and all else that is not the body: trailers, and extensions of chunks.
            self._head = 0 if self._head == WHOLE else self._head + len(piece)
            if self._head > step:
                self._refuse(HeadTooLarge(f"At most {step} bytes."))

    def lapse(self, now: float) -> None:
        """Ends a connection that has kept us waiting: for a request to come whole, for the next one, or for somebody to
        read what was sent.
        """
        if self._takes_nothing(now):
            # A reset, since the kernel would otherwise keep megabytes for somebody who does not read them.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
            return
        if not self._due or now < self._due or self.flow.read_paused:
            return  # we do not read ourselves, so nothing is late
        cycle = self.cycle
        begun = self._in_head or (cycle is not None and cycle.more_body and not cycle.response_complete)
        if begun and not self._over:
            self._refuse(RequestTimeout())
        else:
            self.transport.close()

    def _takes_nothing(self, now: float) -> bool:
        """Whether the client has read none of what waits for it for `send_patience` seconds."""
        if not self.flow.write_paused:
            self._unsent = None
            return False
        left = self.transport.get_write_buffer_size() + in_kernel(self._socket)
        if self._unsent is None or self._unsent[0] != left:
            self._unsent = left, now
        return now - self._unsent[1] > self.send_patience

    def _refuse(self, error: ProtocolError, scope: Any | None = None) -> None:
        """Ends the connection, and says why, unless that would be taken for the answer to an earlier request."""
        cycle = self.cycle
        ours = cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started)
        rendered = self.refusal(error, scope) if ours and not self.pipeline else None
        if rendered is None:
            self.transport.close()
            return
        status, head, body = rendered
        self.transport.write(whole(status, self.server_state.default_headers, head, body, keep_alive=False))
        if cycle is not None:
            cycle.disconnected = True
            cycle.message_event.set()
        self.linger()

    def refusal(self, error: ProtocolError, scope: Any | None = None) -> tuple[int, bytes, bytes] | None:
        """Status, header lines and body of a refusal by the connection itself; None: the connection is just closed.

        `scope`: of the request that is refused, if it is one.
        """
        return None

    def linger(self) -> None:
        """Ends a connection whose request has not come whole. For LINGER seconds, what still comes is read and thrown
        away: to close at once would be a reset, which could destroy the answer (RFC 9112 §9.6).
        """
        self._over = True
        self._due = self.loop.time() + LINGER
        if self.follower is not None:
            self.follower.end()
        if not self.transport.is_closing():
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
        """Goes on reading, unless requests wait already, or answers that the client has not read."""
        if self.flow.write_paused:
            self.flow.pause_reading()
        elif self.flow.read_paused:
            if self._due:
                self._due = self.loop.time() + self.patience  # the client is not late: we have not read
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """The server ends. An idle connection is kept for IDLE_END longer, since a request may be on its way."""
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
            self._refuse(TooManyConnections(f"At most {self.most} at once."), scope)
            return
        cycle.message_event = cast("Any", Event(cycle.message_event.is_set()))
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        """uvicorn's own, without making a scope, which may not be needed."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._head = 0
        self._due = self.loop.time() + self.patience

    def on_headers_complete(self) -> None:
        """uvicorn's own, after what its `on_message_begin` does."""
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
        if not self.cycle.response_complete:  # or else it is the next request that is waited for
            self._due = 0.0
        if self._ending:
            self.cycle.keep_alive = False

    def write(self, data: bytes | memoryview) -> None:
        self.transport.write(data)

    @property
    def peer(self) -> tuple[str, bool]:
        """The address at the other end, and whether it is a proxy whose X-Forwarded-* uvicorn believes."""
        address = self.client[0] if self.client else ""
        return address, address in getattr(self.config.loaded_app, "trusted_hosts", ())

    def lost(self) -> bool:
        """Whether nothing more can be sent to the client: it has gone, or it was refused."""
        return self._over or self.transport.is_closing()

    def fileno(self) -> int:
        return self._socket.fileno()

    def writable(self) -> bool:
        return not self.flow.write_paused

    def abort(self) -> None:
        self.transport.abort()

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
        self._socket.detach()  # from here on `send` fails, even if the number belongs to another connection by then
        if self.follower is not None:
            self.follower.end()  # before the transport closes the descriptor, which another connection may get then
        super().connection_lost(exc)


def _judged(error: HttpParserError) -> ProtocolError:
    """Whose fault it is that a request could not be taken: what is raised while the parser calls us is our own, unless
    it says that the request's target is none.
    """
    cause = error.__context__
    if not isinstance(error, HttpParserCallbackError) or isinstance(cause, HttpParserError | UnicodeError):
        return MalformedHttp()
    logger.error("A request failed before it had come whole.", exc_info=cause)
    return InternalFault()
