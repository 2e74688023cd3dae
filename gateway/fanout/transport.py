"""uvicorn's HTTP protocol, with a door for the hub: once a response has begun, frames go straight to the socket.

A handler finds its connection in `scope["extensions"]`. Where this class is not in use, it finds nothing, and the
same loop writes through ASGI `send`: slower, not different.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import Transport
from functools import partial
from typing import Any, Final, cast

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.fanout.follower import EXTENSION, Follower

Cycle = RequestResponseCycle  # uvicorn's state of one request

_HELD: Final = 32 << 10  # bytes of a body that may gather before its request is given to a handler after all


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


class DirectProtocol(HttpToolsProtocol):
    """A connection that tells its follower when it is full, empty again, or gone.

    An application may have `append_directly(cycle) -> bool`: it is then offered each POST once its body is there, and
    may answer it without a task of its own. What it declines, and whatever is unusual, goes to ASGI.
    """

    # uvicorn's own attributes fill the dict that instances of a class share the keys of (30): one more, and each
    # connection has a dict of its own, of 1.5 kB.
    __slots__ = ("_append_directly", "_held", "_idle_since", "follower", "send")

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self.follower: Follower | None = None
        self._idle_since = 0.0  # seconds of the loop's clock; 0: a request is under way
        self._held: tuple[Cycle, ASGI3Application] | None = None
        self.pipeline = cast("Any", _Pipeline())
        self._append_directly = getattr(config.app, "append_directly", None)

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow._is_writable_event = cast("Any", _Event(True))
        # uvicorn knows of a socket that is full only from here; at a mark of 0 it is so as soon as a byte is buffered,
        # and while it is not, nothing can be overtaken by what `send` sends.
        transport.set_write_buffer_limits(0)
        # A frame is sent a thousand times: straight to the kernel, for a twelfth less than by way of the transport. The
        # descriptor is closed after `connection_lost`, when no tail knows this connection any more.
        self.send = partial(os.write, transport.get_extra_info("socket").fileno())

    def on_response_complete(self) -> None:
        """uvicorn's own, but for the keep-alive timer: one for the connection's life, not one for each request."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = 0.0
        if self.transport.is_closing() and self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()

    def _close_if_idle(self) -> None:
        self.timeout_keep_alive_task = None
        if self.transport.is_closing() or not self._idle_since:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left <= 0:
            self.transport.close()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(left, self._close_if_idle)

    def _start_asgi_task(self, cycle: Cycle, app: ASGI3Application) -> None:
        cycle.message_event = cast("Any", _Event(cycle.message_event.is_set()))
        direct = self._append_directly is not None and app is self.app and not cycle.waiting_for_100_continue
        if direct and cycle.more_body and cycle.scope["method"] == "POST":
            self._held = (cycle, app)
        else:
            super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self._held is not None and len(self._held[0].body) > _HELD:
            self._let_go()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._held is not None and self._held[0] is self.cycle:
            assert self._append_directly is not None
            if self._append_directly(self.cycle):
                self._held = None
            else:
                self._let_go()

    def _let_go(self) -> None:
        assert self._held is not None
        held, self._held = self._held, None
        super()._start_asgi_task(*held)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: cast("dict[object, object]", self)}

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

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self.follower is not None:
            self.follower.end()


def answer(cycle: Cycle, status: int, head: bytes, body: bytes) -> None:
    """Writes a whole response at once, past ASGI's two messages: checking every header's characters again, as they
    do, is a third of an append. `head` is the header lines, each with its CRLF, without the server's own.
    """
    if cycle.disconnected:
        return
    lines = [STATUS_LINE[status]]
    lines += [b"%b: %b\r\n" % header for header in cycle.default_headers]
    lines += (head, b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n")
    if cycle.scope["method"] != "HEAD":
        lines.append(body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    cycle.transport.write(b"".join(lines))
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def cycle_of(send: Any) -> Cycle | None:
    """uvicorn's own state of a request, where `send` is its own and nothing has been sent or is held up."""
    cycle = getattr(send, "__self__", None)
    if type(cycle) is Cycle and not cycle.response_started and not cycle.flow.write_paused:
        return cycle
    return None
