"""uvicorn's HTTP protocol, and a way past it for the hub: once a response has begun, frames go straight to the socket.

A handler finds its connection in `scope["extensions"]`. Under another server there is none, and the handler writes
through ASGI's `send`, which is slower, and otherwise the same.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from asyncio import Transport
from collections.abc import Callable, Collection
from typing import Any, ClassVar, Final, cast

from httptools import HttpParserCallbackError, HttpParserError
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.fanout.follower import EXTENSION, Receiver
from gateway.protocol.errors import (
    InternalFault,
    MalformedHttp,
    MethodNotAllowed,
    ProtocolError,
    RequestTimeout,
    TooManyConnections,
)
from gateway.wire.accepting import MOST
from gateway.wire.answers import whole
from gateway.wire.heads import body_length, check, target_of, with_host
from gateway.wire.intake import ANSWER, BETWEEN, IN_HEAD, WHOLE, Intake
from gateway.wire.outflow import ENOUGH, HURRY, LARGE, LURE, Outflow
from gateway.wire.slim import Cycle, Event, has_left, in_kernel

logger = logging.getLogger("gateway.wire.transport")

LINGER: Final = 2.0  # seconds that a refused connection is still read from
IDLE_END: Final = 0.5  # seconds that an idle connection outlives the port
# The answer is still to come (RFC 9110 §15.2.1). Of all interim answers this is the one that every client passes over.
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
SPARE: Final = 2 * MOST
"""Connections beyond the limit that are kept for a moment, since they may ask whether we are well: for two turns of the
loop, in which they come, and are read from.
"""


class DirectProtocol(Intake):
    """A connection that tells its follower when it is full, empty again, or gone."""

    send_patience: ClassVar[float] = 120.0  # seconds that a client may take no byte of what waits for it
    most: ClassVar[int] = sys.maxsize  # connections; those beyond are refused what is not in `always`
    always: ClassVar[Collection[str]] = ()  # paths that even they may ask for
    spare: ClassVar[dict[DirectProtocol, None]]  # those beyond, the oldest first
    outflow: ClassVar[Outflow]

    # uvicorn's own attributes fill the dict that instances of a class share the keys of (30): one more, and each
    # connection has a dict of its own, of 1.5 kB.
    __slots__ = (
        "_ending", "_over", "_rest", "_sent", "_since", "_socket", "_surplus", "_then", "_unsent", "fileno", "follower",
        "send",
    )  # fmt: skip

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self.follower: Receiver | None = None
        self._unsent: tuple[int, float] | None = None  # bytes that wait for the client, and since when so many do
        self._since = 0.0  # when it was first seen that too much waits behind a request; 0: it was not
        self._ending = False
        self._over = False  # refused: whatever still comes is thrown away
        self._rest: list[memoryview] | None = None  # of long data, what the transport has not been given yet
        self._sent = 0  # bytes of the first of these that it has
        self._then: Callable[[], None] | None = None  # what is done with the transport behind that

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # uvicorn learns that a socket is full by this mark. At 0 it does as soon as one byte is buffered; so as long
        # as it is not full nothing is buffered, and what `send` sends overtakes nothing.
        transport.set_write_buffer_limits(0)
        # A frame may be sent a thousand times. By this socket that costs a twelfth less than by the transport, and as a
        # message (send) a twentieth less than by write(2). The transport owns the descriptor: it closes it after
        # `connection_lost`, where this object lets go of it.
        fd = transport.get_extra_info("socket").fileno()
        self._socket = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd)  # the family plays no part in it
        self.send = self._socket.send
        self.fileno = self._socket.fileno
        self._surplus = len(self.connections) - len(self.spare) > self.most
        if self._surplus:
            self._make_room()

    def _make_room(self) -> None:
        """Takes the place of the oldest one beyond the limit, so that descriptors are left for everything else."""
        self.spare[self] = None
        if len(self.spare) > SPARE:
            oldest = next(iter(self.spare))
            del self.spare[oldest]  # at once: it goes in the next turn, and more may come in this one
            oldest.transport.abort()

    def failed(self, error: HttpParserError) -> None:
        self.refuse(_judged(error))

    def lapse(self, now: float) -> None:
        """Ends a connection whose client is too late: with the rest of a request, with its next request, or with
        reading what was sent; and a connection that is not being read, once its client has left.
        """
        if self._takes_nothing(now):
            # A reset, since the kernel would otherwise keep megabytes for a client that does not read them.
            self.reset()
            return
        if self.flow.read_paused:
            if not self.flow.write_paused and self._is_left(now):
                self.transport.close()
            return  # we do not read ourselves, so nothing is late
        self._since = 0.0
        if not self.due or now < self.due:
            return
        cycle = self.cycle
        begun = self._stage == IN_HEAD or (cycle is not None and cycle.more_body and not cycle.response_complete)
        if begun and not self._over:
            self.refuse(RequestTimeout())
        else:
            self.close()

    def _is_left(self, now: float) -> bool:
        """True if the client of a connection that is not read has left, or may have: nothing has told for long."""
        if has_left(self._socket):
            return True
        if not self.flow.stopped:
            if self.follower is not None:
                self.flow.resume_reading()  # it was paused for a body that came before anybody said to want none
            return False
        if not self._since:
            self._since = now
            return False
        self._provoke()
        return now - self._since > self.patience

    def _provoke(self) -> None:
        """Sends a client something that it passes over. If the client has sent more than both systems hold, its end is
        behind that, where nobody sees it; but what is sent to a client that has gone is refused by its system.
        """
        cycle = self.cycle
        if cycle is None:
            return  # its first request waits for its turn, and nothing may be sent before that
        if not cycle.response_started:
            if cycle.scope.get("http_version", "1.1") == "1.1":
                self.transport.write(_CONTINUE)
        elif self.follower is not None and not cycle.response_complete:
            self.follower.beat()

    def _takes_nothing(self, now: float) -> bool:
        """True if the client has read nothing of what is sent to it for `send_patience` seconds, or next to nothing for
        HURRY seconds while very much waits for clients.
        """
        if not self.flow.write_paused:
            self._unsent = None
            return False
        left = self.transport.get_write_buffer_size() + in_kernel(self._socket)
        left += sum(map(len, self._rest or ())) - self._sent
        hurried = self.outflow.crowded
        if self._unsent is None or abs(self._unsent[0] - left) >= (ENOUGH if hurried else 1):
            self._unsent = left, now
        return now - self._unsent[1] > (min(HURRY, self.send_patience) if hurried else self.send_patience)

    def weigh(self, found: dict[int, int]) -> None:
        """Notes what waits here for the client: sizes of objects by their ids, for one may wait at many connections."""
        for part in self._rest or ():
            found[id(part.obj)] = part.nbytes if part.obj is None else len(part.obj)  # type: ignore[arg-type]

    def refuse(self, error: ProtocolError, scope: Any | None = None) -> None:
        if self._over or self.transport.is_closing():
            return
        self._over = True
        cycle = self.cycle
        # Else it would be taken for a part of an answer, or for the answer to a request that has had one.
        ours = cycle is None or not cycle.more_body or not cycle.response_started
        rendered = self.refusal(error, scope) if ours else None
        if rendered is None:
            self.close()
            return
        status, head, body = rendered
        shown = b"" if self.parser.get_method() == b"HEAD" else body
        self.write(whole(status, self.server_state.default_headers, head, shown, keep_alive=False))
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
        away: an immediate close would be a reset, which could destroy the answer (RFC 9112 §9.6).
        """
        self._over = True
        self.due = self.loop.time() + LINGER
        if self.follower is not None:
            self.follower.end()
        self.deafen()
        if self._rest is not None:
            self._then = self.transport.write_eof
        elif not self.transport.is_closing():
            self.transport.write_eof()

    def on_response_complete(self) -> None:
        """uvicorn's own, without a timer for each request."""
        self.server_state.total_requests += 1
        self._since = 0.0
        if self._over or self.transport.is_closing():
            return
        if self._ending or self._deaf:
            self.close()
            return
        self.due = self.loop.time() + (self.patience if self._stage == IN_HEAD else self.timeout_keep_alive)
        if self.counted:
            self.passed(self.counted)
        if self.flow.write_paused or self.flow.read_paused:
            self._read_on()
        else:
            self.parse_on()

    def _read_on(self) -> None:
        """Goes on with the next request, unless there are answers that the client has not read."""
        if self.flow.write_paused:
            self.flow.pause_reading()
            return
        if self.flow.read_paused:
            if self.due:
                self.due = self.loop.time() + self.patience  # the client is not late: we have not read
            self.flow.resume_reading()
        if self.cycle is None or self.cycle.response_complete:
            self.parse_on()

    def shutdown(self) -> None:
        """The server ends. An idle connection is kept for IDLE_END longer, since a request may be on its way."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        else:
            self._ending = True
            self.loop.call_later(IDLE_END, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.close()

    def begin(self) -> None:
        """Begins the application's answer to the request over ASGI, or refuses it."""
        method, version, headers = self.parser.get_method(), self.parser.get_http_version(), self.headers
        try:
            if method == b"CONNECT":
                raise MethodNotAllowed(None, [(b"allow", b"GET, HEAD, PUT, POST, DELETE, OPTIONS")])
            check(version, headers)
            path, raw_path, query, authority = target_of(self.url)
        except ProtocolError as error:
            self.refuse(error)
            return
        if authority is not None:
            headers = with_host(headers, authority)
        HttpToolsProtocol.on_message_begin(self)  # makes the scope
        scope = self.scope
        self.headers = []  # what still comes are trailers, and no part of the head (RFC 9110 §6.5.1)
        scope["method"] = method.decode()
        scope["http_version"] = version
        scope["path"] = self.root_path + path
        scope["raw_path"] = self.root_path.encode() + raw_path
        scope["query_string"] = query
        scope["headers"] = headers
        scope["extensions"] = {EXTENSION: cast("dict[object, object]", self)}
        if self._surplus and path not in self.always:
            self.refuse(TooManyConnections(f"At most {self.most} at once."), scope)
            return
        self.left = body_length(headers)
        self.turns.left -= ANSWER
        self.share.left -= ANSWER
        self.cycle = Cycle(
            scope=scope,
            transport=cast("Any", self),  # it writes and closes
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=cast("Any", Event()),
            expect_100_continue=any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers),
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        self._head = WHOLE
        if self.left:
            self.left -= len(body)
        if self._over or self.follower is not None:
            return  # nobody reads it
        if not self.cycle.response_complete:
            self.count(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._over:
            return
        self.arrived()
        super().on_message_complete()

    def arrived(self) -> None:
        """A request has come whole."""
        self._stage = BETWEEN
        self._head = WHOLE
        if self.counted:
            self.passed(self.counted)
        if not self.cycle.response_complete:  # or else it is the next request that is waited for
            self.busy = True
            self.due = 0.0
        if self._ending:
            self.cycle.keep_alive = False

    def write(self, data: bytes | memoryview) -> None:
        """Writes behind everything that was written before. Long data goes out in turns (`gateway.wire.outflow`); while
        it is on its way, the connection counts as full.
        """
        if self._rest is not None:
            self._rest.append(self.outflow.share(memoryview(data)))
        elif len(data) <= LARGE:
            self.transport.write(data)
        elif not self.transport.is_closing():
            self._rest = [memoryview(data)]
            if self.flow.write_paused:  # the transport says when it has written what it has
                self._share(self._rest)
            else:
                self.outflow.ask(self)
                if self._rest is not None and not self.flow.write_paused:
                    self.pause_writing()

    def pour(self, room: int) -> int:
        """Sends so many bytes of what waits, at most, while the transport has nothing to write. Returns how many."""
        rest = self._rest
        if rest is None or self.transport.is_closing():
            return 0
        sent = 0
        try:
            while rest:
                if sent >= room:
                    self.outflow.later(self)
                    break
                part = rest[0][self._sent : self._sent + room - sent]
                taken = self.send(part)
                sent += taken
                self._advance(rest, taken)
                if taken < len(part):
                    self._wait_for_room(rest)
                    break
        except BlockingIOError:
            self._wait_for_room(rest)
        except OSError:
            self.transport.abort()  # the client has gone
        if not rest:
            self._poured()
        return sent

    def _advance(self, rest: list[memoryview], count: int) -> None:
        self._sent += count
        if self._sent == len(rest[0]):
            self._sent = 0
            del rest[0]

    def _share(self, rest: list[memoryview]) -> None:
        """Holds what waits once with all others who wait for the same."""
        rest[:] = map(self.outflow.share, rest)

    def _wait_for_room(self, rest: list[memoryview]) -> None:
        """The socket is full: the transport waits with a little of what is left, and says when that is written."""
        lure = bytes(rest[0][self._sent : self._sent + LURE])  # a copy: the transport would hold all of it
        self._advance(rest, len(lure))
        self._share(rest)
        self.transport.write(lure)
        if rest and not self.transport.get_write_buffer_size():
            self.outflow.later(self)  # there is room by now

    def _poured(self) -> None:
        """Goes on when the transport has been given everything."""
        self._rest = None
        then, self._then = self._then, None
        if then is not None:
            then()
        if self.flow.write_paused and not self.transport.get_write_buffer_size():
            self.resume_writing()

    def close(self) -> None:
        """Closes the connection behind everything that was written."""
        if self._rest is None:
            self.transport.close()
        else:
            self._then = self.transport.close
            self.deafen()

    def is_closing(self) -> bool:
        return self._then is not None or self.transport.is_closing()

    @property
    def peer(self) -> tuple[str, bool]:
        """The address at the other end, and whether it is a proxy whose X-Forwarded-* uvicorn believes."""
        address = self.client[0] if self.client else ""
        return address, address in getattr(self.config.loaded_app, "trusted_hosts", ())

    def lost(self) -> bool:
        """True if nothing more can be sent to the client: it has left, or it was refused."""
        return self._over or self.transport.is_closing()

    def writable(self) -> bool:
        return not self.flow.write_paused

    def abort(self) -> None:
        self.transport.abort()

    def reset(self) -> None:
        """Ends the connection so that its client cannot take that for the end of a body (HTTP/1.0)."""
        if not self.transport.is_closing():
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    async def drain(self) -> None:
        await self.flow.drain()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.follower is not None:
            self.follower.wake()  # it leaves the tail, and catches up when the socket drains (law 6)

    def resume_writing(self) -> None:
        if self._rest is not None:
            self.outflow.ask(self)
            return
        super().resume_writing()
        if self._deaf and self.busy and self.cycle.response_complete:
            self.transport.close()
        elif not self.transport.is_closing():
            self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest = self._then = None
        self._sent = 0
        self._socket.detach()  # from here on `send` fails, even if the number belongs to another connection by then
        if self.follower is not None:
            self.follower.end()  # before the transport closes the descriptor, which another connection may get then
        self.spare.pop(self, None)
        super().connection_lost(exc)
        # Each of these knows this object: what nobody else holds is freed now, and not by a later look for rings.
        self.scope = self.cycle = cast("Any", None)


def _judged(error: HttpParserError) -> ProtocolError:
    """The refusal for a request that the parser gave up on. An error that our own callback raised is an InternalFault,
    unless it is about the request's target.
    """
    cause = error.__context__
    if not isinstance(error, HttpParserCallbackError) or isinstance(cause, HttpParserError | UnicodeError):
        return MalformedHttp()
    logger.error("Parsing a request raised inside the gateway; it was answered 500.", exc_info=cause)
    return InternalFault()
