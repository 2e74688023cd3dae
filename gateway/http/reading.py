"""The modes of reading (§5.6-5.8): catch-up, long-poll, event stream. One loop serves those that wait (law 4).

A Reading serves the readers of one log, in that log's dialect of the protocol. A Machine may have several.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, Protocol

from gateway.asgi import Headers, Receive, Scope, Send, client_of, gone
from gateway.auth.errors import TokenExpired
from gateway.auth.gate import check_stream, principal_of
from gateway.auth.principal import Principal
from gateway.fanout.deadlines import LATE
from gateway.fanout.follower import Direct, Follower, Receiver, Signal, direct
from gateway.fanout.hub import Hub
from gateway.fanout.page_cache import Pages
from gateway.http import codings, responses
from gateway.http.folding import folded
from gateway.http.limits import Limits
from gateway.protocol import frames, headers
from gateway.protocol.batch import Batch, Encoding, Page
from gateway.protocol.dialect import GATEWAYS, Dialect
from gateway.protocol.errors import Draining, ProtocolError, TooManyReaders
from gateway.protocol.fields import accept_encoding_of, coding_for
from gateway.protocol.offset import NOW, cursor, cursor_at, split
from gateway.protocol.read import Live, ReadRequest
from gateway.quotas import Share, TooManyStreams, holder
from gateway.tasks import in_turns, turn

# A writer chooses a stream's type, which may be text/html or image/svg+xml. A browser may show it, but must run none
# of it on this origin, which may also be that of the application behind the gateway.
_SANDBOX: Final = (b"content-security-policy", b"default-src 'none'; sandbox")


class Log(Protocol):
    """The port to a log, as reading needs it."""

    async def read(
        self, path: str, position: int, *, last_events: int | None = None, known: Page | None = None
    ) -> Page: ...


class Reading:
    """Answers reads of `log`, which `hub` follows. `now` gives seconds since 1970. `shares`: whether a cache may give
    the answer to a request to others, too. `offered`: the codings in which catch-up may come.
    """

    def __init__(
        self,
        log: Log,
        hub: Hub,
        limits: Limits,
        now: Callable[[], float],
        dialect: Dialect = GATEWAYS,
        *,
        shares: Callable[[Scope], bool] = lambda _: False,
        offered: Sequence[bytes] = codings.OFFERED,
    ) -> None:
        self.catch_ups = 0  # reads that were answered with what there was
        self._log = log
        self._hub = hub
        self._limits = limits
        self._now = now
        self._dialect = dialect
        self._shares = shares
        self._offered = offered
        self._pages = Pages(log, limits.pages)
        self._compressed = codings.Bodies(limits.compressed)
        self._folding = limits.folding

    def __call__(self, request: ReadRequest, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Raises ProtocolError while nothing has been sent.

        No coroutine of its own: it would be held by every reader that follows.
        """
        if request.live is Live.NO:
            return (self._plain if request.fold is None else self._plain_fold)(request, scope, send)
        self._admit()
        live = self._long_poll if request.live is Live.LONG_POLL else self._sse
        reading = live(request, scope, receive, send)
        return reading if self._limits.streams is None else self._counted(self._limits.streams, scope, reading)

    async def until_closed(self, path: str, seconds: float, scope: Scope, receive: Receive) -> ProtocolError | None:
        """Waits until a stream is closed or gone, at most `seconds`: a live read whose answer is another's.

        Returns why it was ended before that, if it was: a drain, or the end of its credential. Raises what `__call__`
        raises.
        """
        self._admit()
        principal = principal_of(scope)
        waiting = self._until_closed(path, lasting(principal, seconds, self._now()), scope, receive)
        await (waiting if self._limits.streams is None else self._counted(self._limits.streams, scope, waiting))
        if self._hub.draining:
            return Draining()
        return None if lasting(principal, seconds, self._now()) else TokenExpired()

    def _admit(self) -> None:
        """Checks the limits that every live read is counted by. Raises Draining, TooManyReaders."""
        if self._hub.drained:
            raise Draining
        if self._limits.readers.full:
            raise TooManyReaders

    async def _counted(self, streams: Share, scope: Scope, reading: Coroutine[None, None, None]) -> None:
        """A live read that counts as one of its credential's. Raises TooManyStreams."""
        who = holder(client_of(scope), principal_of(scope))
        if streams.full(who):
            reading.close()
            raise TooManyStreams(f"At most {streams.limit} at once.")
        with streams.one(who):
            await reading

    @property
    def joined(self) -> int:
        """The number of catch-up reads that shared the read of another request."""
        return self._pages.joined

    async def _plain(self, request: ReadRequest, scope: Scope, send: Send) -> None:
        self.catch_ups += 1
        if request.last_events is not None:
            page = await self._log.read(request.path, 0, last_events=request.last_events)
        else:
            page = await self._pages.read(request.path, request.position)
        check_stream(principal_of(scope), page.stream.id)
        coding = coding_for(accept_encoding_of(scope["headers"]), self._offered)
        shared = request.position != NOW and self._shares(scope)
        # A client that goes on to wait shall do so at the address at which all others wait.
        at = self._cursor(request, page.batch.end, shared) if shared and not page.batch.closed else None
        await self._answer(send, request, page, at, live=False, shared=shared, coding=coding)

    async def _plain_fold(self, request: ReadRequest, scope: Scope, send: Send) -> None:
        async with self._folding.turn(request.path):
            await self._plain(request, scope, send)

    async def _answer(
        self,
        send: Send,
        request: ReadRequest,
        page: Page,
        cursor: int | None,
        *,
        live: bool,
        shared: bool,
        coding: bytes | None = None,
    ) -> None:
        """A batch as a whole response, or 304 when the client has it already (§10.1)."""
        stream, batch = page.stream, page.batch
        start = request.offset if request.last_events is None else self._dialect.offset(batch.start)
        now = request.position == NOW
        answer = self._dialect.of_batch(stream, batch, start, cursor=cursor if live else None, now=now)
        if shared:
            answer = headers.shared(answer, live=live)
        if not live and cursor is not None:
            answer.append((b"stream-cursor", b"%d" % cursor))
        if request.if_none_match is not None and not now:
            # Any form of it that the client may be sent: it is we who choose.
            tag = self._dialect.etag(stream, start, batch.end, batch.closed)
            for held in (tag, *((headers.coded(tag, coding),) if coding else ())):
                if headers.etag_matches(request.if_none_match, held):
                    await responses.respond(send, 304, headers.of_unchanged(answer, held))
                    return
        if stream.encoding is not Encoding.JSON:
            answer.append(_SANDBOX)

        async def parts() -> Sequence[bytes]:
            shown, encoding = batch, stream.encoding
            if request.fold is not None and live:
                shown = await self._folding.live(request.fold, stream.path, encoding, batch)
            elif request.fold is not None:
                shown = await folded(request.fold, encoding, batch)
            return frames.parts(encoding, shown)

        if coding is not None and len(batch.body) >= codings.SMALLEST:
            key = (stream.path, stream.id, batch.start, batch.end, request.fold)
            body = await self._compressed(key, coding, parts)
            if body is not None:
                await responses.respond(send, 200, headers.in_coding(answer, coding), body)
                return
        if request.fold is not None:  # its own: all of it is counted among what waits (`gateway.wire.outflow`)
            await responses.respond(send, 200, answer, b"".join(await parts()))
            return
        await _whole(send, answer, await parts())

    async def _until_closed(self, path: str, seconds: float, scope: Scope, receive: Receive) -> None:
        with (
            self._limits.readers.long_polls,
            Follower(self._hub, path) as follower,
            hangup(follower, receive, direct(scope)),
        ):
            batch: Batch | Signal = (await follower.begin(NOW, 0)).batch
            follower.expire(seconds)
            while batch is not Signal.OVER and not (isinstance(batch, Batch) and batch.closed):
                batch = await follower.next()

    async def _long_poll(self, request: ReadRequest, scope: Scope, receive: Receive, send: Send) -> None:
        principal = principal_of(scope)
        with (
            self._limits.readers.long_polls,
            Follower(self._hub, request.path) as follower,
            hangup(follower, receive, direct(scope)),
        ):
            page = await follower.begin(request.position, request.last_events, request.wait)
            check_stream(principal, page.stream.id)
            follower.expire(lasting(principal, self._limits.long_poll_timeout, self._now()))
            batch: Batch | Signal = page.batch
            while batch is Signal.HEARTBEAT or (isinstance(batch, Batch) and batch.empty and not batch.closed):
                batch = await follower.next()
            if batch is Signal.OVER and follower.tail.ended:
                # The stream is gone, or the log is another one: it says itself what is at this position now.
                page = await self._log.read(request.path, follower.position)
                check_stream(principal, page.stream.id)
                batch = page.batch if page.batch.closed or not page.batch.empty else batch
            shared = request.position != NOW and self._shares(scope)
            if isinstance(batch, Batch) and not batch.empty:
                at = self._cursor(request, batch.end, shared)
                await self._answer(send, request, Page(page.stream, batch), at, live=True, shared=shared)
            else:
                at = self._cursor(request, follower.position, shared)
                nothing = self._dialect.of_nothing_new(follower.position, isinstance(batch, Batch), at)
                await responses.respond(send, 204, headers.shared(nothing, live=True) if shared else nothing)

    def _cursor(self, request: ReadRequest, end: int, shared: bool) -> int:
        if shared:
            return cursor_at(self._now(), request.cursor, split(end)[1])
        return cursor(self._now(), request.cursor, random.random())

    async def _sse(self, request: ReadRequest, scope: Scope, receive: Receive, send: Send) -> None:
        # What a tail writes to all of its followers at once has names.
        named = request.named
        connection = direct(scope) if named else None
        with (
            self._limits.readers.sse,
            Follower(self._hub, request.path, connection) as follower,
            hangup(follower, receive, connection),
        ):
            begun = await self._sse_begin(request, follower, principal_of(scope), send)
            if begun is None:
                return
            (encoding, closed), fold = begun, request.fold
            del request, begun
            if connection is not None:
                _forget(scope)
            while not closed:
                try:
                    batch = await follower.next()
                except (ProtocolError, asyncio.CancelledError):
                    # The log is away, the stream is gone, or a drain is over before the log has answered. The response
                    # ends cleanly all the same, so that the client asks again (law 9).
                    break
                if batch is Signal.OVER:
                    break
                if isinstance(batch, Signal):
                    await responses.piece(send, frames.HEARTBEAT)
                    continue
                if fold is not None:
                    batch = await self._folding.live(fold, follower.tail.path, encoding, batch)
                await self._send(send, named, encoding, batch, self._hub.cursor(follower.tail))
                closed = batch.closed
                del batch  # so that no page is kept in memory while this waits
        await responses.finish(send)

    async def _sse_begin(
        self, request: ReadRequest, follower: Follower, principal: Principal, send: Send
    ) -> tuple[Encoding, bool] | None:
        """Sends the head and the first page. Returns how the stream is encoded, and whether that was all of it; None if
        the answer was another.
        """
        page = await follower.begin(request.position, request.last_events, request.wait)
        check_stream(principal, page.stream.id)
        follower.expire(lasting(principal, self._limits.sse_max_age * random.uniform(1, 1.2), self._now()))
        encoding = page.stream.encoding
        batch = page.batch
        if request.fold is not None:
            batch = await self._folding.live(request.fold, request.path, encoding, batch)
        if request.resumed and batch.empty and batch.closed:
            await responses.respond(send, 204, headers.of_end(self._dialect.offset(batch.end)))
            return None
        await responses.start(send, 200, headers.of_sse(encoding))
        await self._send(
            send, request.named, encoding, batch, self._hub.cursor(follower.tail, request.cursor), first=True
        )
        return encoding, batch.closed

    async def _send(
        self, send: Send, named: bool, encoding: Encoding, batch: Batch, cursor: int, *, first: bool = False
    ) -> None:
        offset = self._dialect.offset
        if named and len(batch.body) <= frames.LONG:
            await responses.piece(send, frames.sse(encoding, batch, b"%d" % cursor, first=first, offset=offset))
        else:
            form = frames.sse_in_pieces if named else frames.messages_in_pieces
            pieces = form(encoding, batch, b"%d" % cursor, first=first, offset=offset)
            await responses.parts(send, await in_turns(pieces, len(batch.body)))


def lasting(principal: Principal, wanted: float, now: float) -> float:
    """Seconds that a read of a stream that it follows may last: as many as are `wanted`, and no longer than the
    credential that it was let in by. `now`: Unix seconds.
    """
    if principal.expires is None:
        return wanted
    return max(0.0, min(wanted, principal.expires - now - LATE))


_NOTHING: Final = nullcontext()


def hangup(follower: Receiver, receive: Receive, connection: Direct | None) -> AbstractContextManager[None]:
    """Ends the follower when its client has gone. A direct connection does so by itself, and saves a task."""
    if connection is None:
        return _awaited(follower, receive)
    return _NOTHING if connection.follower is follower else _told(follower, connection)


@contextmanager
def _told(follower: Receiver, connection: Direct) -> Iterator[None]:
    connection.follower = follower
    try:
        if connection.lost():
            follower.end()
        yield
    finally:
        connection.follower = None


@contextmanager
def _awaited(follower: Receiver, receive: Receive) -> Iterator[None]:
    """While the block runs, a task waits for the client to go. Nothing that it knows knows the task: one that was
    cancelled keeps the frames that it was in, and each long-poll would leave a ring behind.
    """

    async def listen() -> None:
        await gone(receive)
        follower.end()

    task = asyncio.ensure_future(listen())
    try:
        yield
    finally:
        task.cancel()


def _forget(scope: Scope) -> None:
    """Frees the memory of a request that has been parsed, since its response may last for hours.

    Only for connections of our own server (`gateway.wire.transport`), which needs nothing but the method later on.
    """
    method = scope["method"]
    scope["headers"].clear()
    scope.clear()
    scope["method"] = method


async def _whole(send: Send, answer: Headers, parts: Sequence[bytes]) -> None:
    """Sends a body. A large one is not copied: all readers of the same page share its bytes."""
    length = sum(map(len, parts))
    if length < frames.SHARED:
        await responses.respond(send, 200, answer, b"".join(parts))
        return
    await turn()  # each reader has its own
    await responses.start(send, 200, [*answer, (b"content-length", b"%d" % length)])
    for part in parts:
        await responses.piece(send, part)
    await responses.finish(send)
