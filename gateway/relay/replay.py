"""Replays a recording to a client from any place on: the upstream's frames as they are, live as soon as it has caught
up.

A response ends cleanly only where the recording does. Whatever else ends it cuts the connection, for many clients take
a clean end for the whole answer. Nothing of ours stands between the frames but comments, where those do no harm.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.asgi import Headers, Receive, Scope, Send, client_of, gone
from gateway.auth.gate import principal_of
from gateway.fanout.follower import EXTENSION, Follower, Signal, direct
from gateway.fanout.hub import Hub
from gateway.http import responses
from gateway.http.limits import Limits
from gateway.http.reading import hangup
from gateway.protocol.batch import Batch, Stream
from gateway.protocol.errors import Draining, ProtocolError, TooManyReaders
from gateway.protocol.frames import HEARTBEAT, SHARED, gathered
from gateway.protocol.offset import events_between
from gateway.quotas import TooManyStreams, holder
from gateway.relay.cursors import Skip
from gateway.relay.framing import Kind, cut, with_id
from gateway.relay.ids import frame_id


@dataclass(frozen=True, slots=True)
class Way:
    """A client's way into a recording: where it begins, and what it has already. `ids`: it is given ids.

    `moved`: it is sent to another Machine when this one is to end, since it goes on by itself from where it was.
    `missed`: a recording that nobody reads any more may be cancelled.
    """

    path: str
    run: str
    kind: Kind
    ids: bool
    comments: bool
    position: int = 0
    skip: Skip | None = None
    moved: bool = False
    missed: bool = False


@dataclass(frozen=True, slots=True)
class Encoder:
    """Batches of a recording as its clients get them. `run`: the frames are given ids of this one."""

    kind: Kind
    run: str | None
    heartbeat: bytes
    skip: Skip | None = None

    @staticmethod
    def of(way: Way) -> Encoder:
        return Encoder(way.kind, way.run if way.ids else None, HEARTBEAT if way.comments else b"", way.skip)

    def __call__(self, batch: Batch) -> bytes:
        """The bytes of a batch; none, if the client has all of it."""
        return b"".join(self.parts(batch))

    def parts(self, batch: Batch) -> list[bytes]:
        """The same, with each large frame alone."""
        if self.run is None and self.skip is None and len(batch.body) < SHARED:
            return [batch.body] if batch.body else []
        events = split(self.kind, batch)
        first = batch.end - len(events) + 1  # a batch is of one epoch
        parts: list[bytes] = []
        for position, event in enumerate(events, first):
            if self.skip is not None and self.skip(event):
                continue
            parts.append(event if self.run is None else with_id(self.kind, event, frame_id(self.run, position)))
        return gathered(parts)


def split(kind: Kind, batch: Batch) -> list[bytes]:
    """The events of a batch: frames, but for the last event of a run, which may be several. One for all of them, where
    they cannot be told apart.
    """
    count = events_between(batch.start, batch.end)
    if count <= 1:
        return [batch.body] * count
    if batch.lengths is not None and len(batch.lengths) == count:
        events, at = [], 0
        for length in batch.lengths:
            events.append(batch.body[at : at + length])
            at += length
        return events
    frames = cut(kind, batch.body)
    if len(frames) < count:
        return [batch.body]  # another producer has written into the run, and what is no frame
    return [*frames[: count - 1], b"".join(frames[count - 1 :])]


class Replays:
    """The replays at this Machine, one for each client."""

    def __init__(self, hub: Hub, limits: Limits) -> None:
        self._hub = hub
        self._readers = limits.readers
        self._streams = limits.streams
        self._missed: Counter[int] = Counter()
        self._expected: set[str] = set()

    def admit(self, scope: Scope) -> None:
        """Asked once it is known who makes a request. Raises Draining, TooManyReaders, TooManyStreams."""
        if self._hub.drained:
            raise Draining
        if self._readers.full:
            raise TooManyReaders
        if self._streams is not None and self._streams.full(_holder(scope)):
            raise TooManyStreams(f"At most {self._streams.limit} at once.")

    @property
    def missed(self) -> list[int]:
        """The recordings with a reader here which may be cancelled when they have none."""
        return list(self._missed)

    @contextmanager
    def _counted(self, stream: int | None) -> Iterator[None]:
        if stream is None:
            yield
            return
        self._missed[stream] += 1
        try:
            yield
        finally:
            self._missed[stream] -= 1
            if not self._missed[stream]:
                del self._missed[stream]

    @contextmanager
    def place(self, scope: Scope) -> Iterator[None]:
        """A reader's place: also for a client that waits for the first answer."""
        with self._readers.sse, nullcontext() if self._streams is None else self._streams.one(_holder(scope)):
            yield

    @contextmanager
    def expecting(self, path: str) -> Iterator[Callable[[Stream], None]]:
        """Follows a recording that is to be made. Its maker says which stream it is: then its first reader
        need not read the log.
        """
        tail = self._hub.follow(path)
        self._expected.add(path)
        try:
            yield partial(self._hub.made, tail)
        finally:
            self._expected.discard(path)
            self._hub.unfollow(tail)

    def has_readers(self, path: str) -> bool:
        """Whether the stream at this path has a reader here."""
        tail = self._hub.tails.get(path)
        return tail is not None and tail.users > (path in self._expected)

    async def __call__(
        self, way: Way, status: int, head: Headers, idle: int | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answers with a recording. `idle`: the status where it has ended and the client has all of it.

        Raises ProtocolError while nothing has been sent.
        """
        encode = Encoder.of(way)
        # What a client has by its own count is left out for it alone, which no tail can do.
        connection = direct(scope) if way.skip is None else None
        with (
            self.place(scope),
            Follower(self._hub, way.path, connection, encode) as follower,
            hangup(follower, receive, connection),
        ):
            page = await follower.begin(way.position)
            batch: Batch | Signal = page.batch
            if way.moved:
                follower.expire(86_400)
            stream = page.stream.id if way.missed else None
            if idle is not None:
                first, batch = await _first(follower, page.batch, encode)
                if not first and isinstance(batch, Batch) and batch.closed:
                    await responses.respond(send, idle, [])
                    return
            else:
                first = encode.parts(page.batch)
            closed = isinstance(batch, Batch) and batch.closed
            del page, batch  # so that nothing of them is kept in memory while this waits
            await responses.start(send, status, head)
            await responses.parts(send, first)
            del first
            with self._counted(stream):
                whole = await self._follow(follower, closed, encode, way, send)
        if whole:
            await responses.finish(send)
        else:
            await sever(scope, receive)

    async def _follow(self, follower: Follower, closed: bool, encode: Encoder, way: Way, send: Send) -> bool:
        """Sends what comes. Returns whether that was all of the recording."""
        while not closed:
            try:
                batch = await follower.next()
            except (ProtocolError, asyncio.CancelledError):
                return False
            if batch is Signal.OVER:
                return False
            if isinstance(batch, Signal):
                if way.comments:
                    await responses.piece(send, HEARTBEAT)
                continue
            await responses.parts(send, encode.parts(batch))
            closed = batch.closed
            del batch  # so that no page is kept in memory while this waits
        return True


async def _first(follower: Follower, batch: Batch, encode: Encoder) -> tuple[list[bytes], Batch | Signal]:
    """The first bytes that the client has not, as far as the recording goes by now; and where that ends."""
    while True:
        data = encode.parts(batch)
        if data or batch.closed or batch.up_to_date:
            return data, batch
        following = await follower.next(written=False)
        if isinstance(following, Signal):
            return [], following
        batch = following


def _holder(scope: Scope) -> str:
    return holder(client_of(scope), principal_of(scope))


async def sever(scope: Scope, receive: Receive) -> None:
    """Ends a response that is not whole so that its client sees that it is not.

    By HTTP/1.1 the last chunk is missing. By HTTP/1.0, where a body ends with its connection, that is reset.
    """
    connection: Any = scope.get("extensions", {}).get(EXTENSION)
    if connection is None:
        raise ConnectionAbortedError("The response is not whole.")  # what the server makes of it is a cut
    if scope["http_version"] == "1.0":
        connection.reset()
    else:
        connection.abort()
    await gone(receive)
