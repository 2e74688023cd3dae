"""`GET /runs?live=sse`: a live list as an event stream.

Its events are unnamed. The data of the first is `{"list":[…]}`, the newest runs as `GET /runs` answers them; what
follows is `{"changes":[{"change","run"},…]}`. A reader that comes back is told what has changed since; where that
cannot be told any more, it begins anew with a list.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from typing import Final, Protocol

import orjson

from gateway.asgi import Receive, Scope, Send, client_of
from gateway.auth.gate import principal_of
from gateway.auth.principal import Principal
from gateway.fanout.follower import Signal, direct
from gateway.fanout.hub import Hub
from gateway.http import responses
from gateway.http.limits import Limits
from gateway.http.reading import hangup, lasting
from gateway.protocol import headers
from gateway.protocol.batch import Encoding
from gateway.protocol.changes import Standing
from gateway.protocol.errors import Draining, ListTooSlow, ProtocolError, TooManyReaders
from gateway.protocol.fields import single_headers
from gateway.protocol.frames import HEARTBEAT, RETRY, gathered
from gateway.protocol.record import RunRecord, to_json
from gateway.quotas import TooManyStreams, holder
from gateway.runs.live_list import FRAME, LITTLE, Change, Changes, LiveList, StartAnew, weight
from gateway.runs.queries import ListRequest, LiveRequest, format_cursor, parse_live
from gateway.tasks import turn

LARGE: Final = 256 << 10  # bytes of records in one frame, about


class Listed(Protocol):
    """`Store.listed` of `gateway.runs.store`."""

    def __call__(
        self, request: ListRequest, tenant: str
    ) -> Awaitable[tuple[list[RunRecord], int | None, Standing]]: ...


class LiveLists:
    """Answers requests for live lists. `now` gives seconds since 1970."""

    def __init__(self, changes: Changes, listed: Listed, hub: Hub, limits: Limits, now: Callable[[], float]) -> None:
        self._changes = changes
        self._listed = listed
        self._hub = hub
        self._limits = limits
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ProtocolError while nothing has been sent."""
        if self._hub.drained:
            raise Draining
        readers, streams = self._limits.readers, self._limits.streams
        if readers.full:
            raise TooManyReaders
        principal = principal_of(scope)
        who = holder(client_of(scope), principal)
        if streams is not None and streams.full(who):
            raise TooManyStreams(f"At most {streams.limit} at once.")
        found = single_headers(scope["headers"], frozenset((b"last-event-id",)))
        request = parse_live(scope["query_string"].decode("latin-1"), found)
        with readers.many, nullcontext() if streams is None else streams.one(who):
            await self._answer(request, principal, scope, receive, send)

    async def _answer(
        self, request: LiveRequest, principal: Principal, scope: Scope, receive: Receive, send: Send
    ) -> None:
        connection = direct(scope)
        with (
            LiveList(self._changes, principal.tenant, request.list, connection) as reader,
            hangup(reader, receive, connection),
        ):
            reader.expire(lasting(principal, self._limits.sse_max_age * random.uniform(1, 1.2), self._now()))
            response = _Response(self._listed, request, principal.tenant, reader, send)
            await response.begin()
            # If the database is away, or a drain is over, the client comes back (law 9).
            with suppress(ProtocolError, asyncio.CancelledError):
                await response.run()
        await responses.finish(send)


class _Response:
    """A response, and where its reader stands."""

    def __init__(self, listed: Listed, request: LiveRequest, tenant: str, reader: LiveList, send: Send) -> None:
        self._listed = listed
        self._request = request
        self._tenant = tenant
        self._reader = reader
        self._send = send
        self._standing: Standing

    async def begin(self) -> None:
        """The head, and the list or, for one that comes back, the first changes. Raises while nothing has been sent."""
        given: tuple[list[Change], Standing] | Signal = Signal.OVER
        if self._request.standing is not None:
            self._standing = self._request.standing
            with suppress(StartAnew, ListTooSlow):
                given = await self._reader.next(self._standing)
        first = await self._list() if given is Signal.OVER else []
        await responses.start(self._send, 200, headers.of_sse(Encoding.JSON))
        if first:
            await responses.parts(self._send, [RETRY, *first])
        elif isinstance(given, Signal) or not given[0]:
            if not isinstance(given, Signal):
                self._standing = given[1]
            # One that comes back is given a fresh id, for it is not told of what its list does not show.
            await responses.piece(self._send, RETRY + self._id() + b"\n")
        else:
            await self._give(*given, before=RETRY)

    async def run(self) -> None:
        """Sends what comes then, until the response is over."""
        while True:
            try:
                given = await self._reader.next(self._standing)
            except StartAnew:
                await responses.parts(self._send, await self._list())
                continue
            if given is Signal.OVER:
                return
            if isinstance(given, Signal):
                await responses.piece(self._send, HEARTBEAT)
            else:
                await self._give(*given)
            del given  # so that no record is kept in memory while this waits

    async def _give(self, changes: list[Change], standing: Standing, before: bytes = b"") -> None:
        """Sends changes, a frame after the other: none is made before the one before it is on its way (law 6)."""
        for some in _frames_of(changes):
            if sum(map(weight, some)) > LITTLE:
                await turn()
            self._standing = some[-1].standing
            frame = self._frame(b'{"changes":[', [_change(each) for each in some], b"]}")
            await responses.parts(self._send, [before + frame[0], *frame[1:]])
            before = b""
        self._standing = standing

    async def _list(self) -> list[bytes]:
        records, end, self._standing = await self._listed(self._request.list, self._tenant)
        self._reader.stand(self._standing)
        more = b"" if end is None else b',"nextCursor":%b' % orjson.dumps(format_cursor(end))
        return self._frame(b'{"list":[', map(to_json, records), b"]%b}" % more)

    def _id(self) -> bytes:
        return b"id: %b\n" % self._standing.to_bytes(self._request.digest)

    def _frame(self, before: bytes, parts: Iterable[bytes], after: bytes) -> list[bytes]:
        """One event, with a line for each part; its id, which may be this reader's alone, apart from a large rest."""
        return gathered((self._id(), b"data:%b%b%b\n\n" % (before, b",\ndata:".join(parts), after)))


def _change(change: Change) -> bytes:
    return b'{"change":"%b","run":%b}' % (change.kind.encode(), to_json(change.record))


def _frames_of(changes: list[Change]) -> Iterator[list[Change]]:
    """Changes for one frame each: those of one run that came together stay together, for they are told together."""
    some: list[Change] = []
    size = 0
    for change in changes:
        if (len(some) >= FRAME or size >= LARGE) and change.stream != some[-1].stream:
            yield some
            some, size = [], 0
        some.append(change)
        size += weight(change)
    if some:
        yield some
