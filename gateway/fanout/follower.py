"""A reader: catching up at its own pace, or following, when its stream's tail writes to it.

One loop serves every mode. An SSE reader sends each batch that `next` gives; a long-poll answers with the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import Any, Final, Protocol, Self

from gateway.fanout.hub import Hub
from gateway.fanout.tail import Form, Tail
from gateway.outage import SeldomLogger
from gateway.protocol.batch import Batch, Page
from gateway.protocol.errors import Draining, StreamNotFound
from gateway.tasks import wake

logger = logging.getLogger("gateway.fanout.follower")
seldom_logger: Final = SeldomLogger(logger)

LOOK: Final = 1.0  # seconds after which a stream that is not there yet is looked for again, the first time
MOST_LOOK: Final = 5.0  # seconds, at most

EXTENSION = "run_gateway.direct"  # where an ASGI scope holds its Direct


class Receiver(Protocol):
    """The reader of a connection, which is called when that is full or has drained (`wake`), or is lost (`end`)."""

    def wake(self) -> None: ...
    def beat(self) -> None: ...
    def end(self) -> None: ...


class Direct(Protocol):
    """A connection that can be written to without its handler: see `gateway.wire.transport`.

    While it is writable nothing is buffered for it, and `send` goes straight to the socket: it returns how many bytes
    the socket took, or raises OSError. `write` takes the rest, and buffers what the socket does not take. `fileno` is
    the socket's descriptor, or -1 if it is lost. `abort` closes the connection immediately, whatever was buffered.
    """

    follower: Receiver | None

    def lost(self) -> bool: ...
    def fileno(self) -> int: ...
    def send(self, data: bytes) -> int: ...
    def write(self, data: bytes | memoryview) -> None: ...
    def writable(self) -> bool: ...
    def abort(self) -> None: ...
    async def drain(self) -> None: ...


def direct(scope: Mapping[str, Any]) -> Direct | None:
    """The connection that a request came on, if it can be written to directly.

    It cannot with HTTP/1.0, which has no chunked coding, nor under another server than ours.
    """
    connection: Direct | None = scope.get("extensions", {}).get(EXTENSION)
    return connection if scope["http_version"] == "1.1" else None


class Signal(Enum):
    """Results of `next` other than a batch."""

    HEARTBEAT = "heartbeat"  # nothing was sent for long: say that the connection is alive
    OVER = "over"  # nothing more comes here: the response ends


class Follower:
    """A reader of one stream from `position` on.

    Use as a context manager: it is registered with the hub before its first read (law 4), and leaves at the end.
    With `direct`, what is new is written to that connection by the tail itself, without a turn of its handler: in this
    `form`, or else as the protocol's frames. Without, every batch is given out by `next`.
    """

    __slots__ = ("_direct", "_form", "_hub", "_over", "_parked", "_signal", "position", "slot", "tail")

    def __init__(self, hub: Hub, path: str, direct: Direct | None = None, form: Form | None = None) -> None:
        over = direct is not None and direct.lost()  # it may have been lost when there was no follower to be told
        self.tail: Tail = hub.follow(path)
        self.position = 0
        self.slot = 0
        self._hub = hub
        self._direct = direct
        self._form = form
        self._parked: asyncio.Future[None] | None = None
        self._over = over
        self._signal: Signal | None = None
        if direct is not None:
            direct.follower = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()  # it is still in the tail if it was cancelled while it waited
        if self._direct is not None:
            self._direct.follower = None
        self._hub.deadlines.unschedule(self, self.slot)
        self._hub.unfollow(self.tail)

    async def begin(self, position: int, last_events: int | None = None, wait: float = 0.0) -> Page:
        """The first page: after `position`, or so many events before the tail. Raises what a read of the log raises.

        A stream that is not there yet is waited for, so many seconds at most.
        """
        page = await (self._first(position, last_events) if not wait else self._awaited(position, last_events, wait))
        self.position = page.batch.end
        return page

    async def _first(self, position: int, last_events: int | None) -> Page:
        if last_events is None:
            return await self._hub.enter(self.tail, position)
        return await self._hub.enter_last(self.tail, last_events)

    async def _awaited(self, position: int, last_events: int | None, wait: float) -> Page:
        """The first page of a stream that may not be there yet. News of it wakes this; without any, it looks again."""
        clock = asyncio.get_running_loop().time
        until, pause = clock() + wait, LOOK
        while True:
            made = self._park(None)  # before the log is asked (law 4)
            try:
                return await self._first(position, last_events)
            except StreamNotFound:
                left = until - clock()
                if left <= 0 or self._over or self.tail.ended:
                    raise
                if self._hub.draining:
                    raise Draining from None
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, pause)):
                        await made
                pause = min(2 * pause, MOST_LOOK)
            finally:
                self._leave()

    def expire(self, after: float) -> None:
        """Schedules its end in `after` seconds, or within a second or so on a Machine that is draining."""
        deadlines = self._hub.deadlines
        self.slot = deadlines.schedule(self, deadlines.time_for(after))

    async def next(self, *, written: bool = True) -> Batch | Signal:
        """The next batch, which `position` moves past, or a signal. Waits while there is nothing.

        `written`: the head of its response is on its way, so that the tail may write to its connection. Raises what a
        read of the log raises.
        """
        tail = self.tail
        while not self._over and not tail.ended:
            if self._signal is not None:
                signal, self._signal = self._signal, None
                return signal
            if self._direct is not None and not self._direct.writable():
                await self._direct.drain()  # nothing is fetched for a reader that does not read (law 6)
                continue
            if tail.position == self.position:
                if tail.closed:
                    return Batch(self.position, self.position, b"", True, True)
                await self._park(self._direct if written else None)
                continue
            batch = tail.since(self.position)
            if batch is None:
                batch = (await self._hub.read_on(tail, self.position)).batch
                if tail.ended:
                    continue
                assert batch.start == self.position, "a reader never skips (law 3)"
                if batch.empty and not batch.closed:
                    # Nothing there, though this is not the tail: the tail is behind, or the reader is ahead of the log.
                    await self._park(None)
                    continue
            self.position = batch.end
            return batch
        return Signal.OVER

    def wake(self) -> None:
        """Makes `next` look again, since something has changed."""
        self._leave()
        parked, self._parked = self._parked, None
        if parked is not None and not parked.done():
            wake(parked)

    def beat(self) -> None:
        """Makes `next` return a heartbeat, since nothing was sent for a while."""
        self._signal = Signal.HEARTBEAT
        self.wake()

    def spill(self, rest: bytes | memoryview) -> None:
        """The socket did not take all that the tail sent: the transport buffers the rest, and says that it is full."""
        assert self._direct is not None
        self._direct.write(rest)

    def fail(self) -> None:
        """Ends a follower whose connection raised: how many of the last bytes its client has got is unknown.

        The connection is aborted, and the client resumes from the last offset that came whole. Never raises.
        """
        self._over = True
        for step in (self._abort, self._leave, self.wake):
            try:
                step()
            except Exception:
                seldom_logger.exception("Ending a reader whose connection had failed raised as well.")

    def end(self) -> None:
        """Ends the read: the stream is closed, the Machine drains, the reader's time is up, or its client has gone."""
        self._over = True
        self.wake()

    def _abort(self) -> None:
        if self._direct is not None:
            self._direct.abort()

    def _park(self, direct: Direct | None) -> asyncio.Future[None]:
        """Joins the tail, which writes to `direct` from now on. The future is done when there is a reason to look."""
        if direct is not None:
            self.tail.crowd(self._form).join(self, direct)
        else:
            self.tail.waiting.add(self)
        self._parked = asyncio.get_running_loop().create_future()
        return self._parked

    def _leave(self) -> None:
        stands = self.tail.crowd(self._form).leave(self, self.tail.position)
        if stands is not None:
            self.position = stands  # everything up to here has been written to it
        else:
            self.tail.waiting.discard(self)
