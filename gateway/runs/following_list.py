"""`/v1/stream?live=sse` with the filters of a list: all runs that the list names, in one event stream.

A run that comes to the list joins by itself, one that is removed has its last word, and one that has ended leaves.
Their events come as those of streams that are named (http/following.py); which runs there are, a live list says.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final, Protocol, Self

from gateway.asgi import Receive, Scope, Send, client_of
from gateway.auth.errors import CredentialMissing
from gateway.auth.gate import check_target, principal_of
from gateway.auth.principal import NOBODY
from gateway.fanout.follower import Signal, direct
from gateway.fanout.hub import Hub
from gateway.fanout.multiplex import Followed, Given, Look, Multiplex
from gateway.http import responses
from gateway.http.following import send_frame
from gateway.http.limits import Limits
from gateway.http.reading import hangup, lasting
from gateway.protocol import headers, list_offset, many
from gateway.protocol.batch import Batch, Encoding
from gateway.protocol.changes import Standing
from gateway.protocol.composite import OVER, UNBEGUN
from gateway.protocol.errors import InvalidRequest, ProtocolError, StreamNotFound, TooManyFollowed
from gateway.protocol.fields import single_headers
from gateway.protocol.fold import fold_in_pieces
from gateway.protocol.frames import HEARTBEAT, RETRY
from gateway.protocol.many import MOST
from gateway.protocol.offset import START
from gateway.protocol.target import Target, within
from gateway.quotas import holder
from gateway.runs.live_list import Change, Changes, LiveList, StartAnew
from gateway.runs.queries import FollowRequest, ListRequest, parse_follow
from gateway.tasks import in_turns, turn

Parts = list[many.Line]

MANY: Final = 50  # runs, of which an `id:` takes some time to be written
_LIST: Final = Target.of("/runs")
_ANEW: Final = b'{"anew":true}'
"""The part by which a reader is told to forget what it has: where it stood in the list is not known any more."""


class Runs(Protocol):
    """`Store` of `gateway.runs.store`."""

    async def named(self, request: ListRequest, tenant: str) -> tuple[list[tuple[int, str, bool]], bool, Standing]: ...
    async def ids(self, streams: list[int], tenant: str) -> dict[int, str]: ...


@dataclass(slots=True)
class Run:
    """A run whose reader has not had its last word. `ended`: the list has told its end."""

    id: str
    position: int
    ended: bool = False
    followed: Followed | None = None

    @property
    def path(self) -> str:
        return f"runs/{self.id}"


class FollowedLists:
    """Answers requests to follow all runs that a list names. `now` gives seconds since 1970, `heartbeat` is seconds."""

    def __init__(
        self,
        changes: Changes,
        runs: Runs,
        hub: Hub,
        look: Look,
        limits: Limits,
        heartbeat: float,
        now: Callable[[], float],
    ) -> None:
        self.changes: Final = changes
        self.runs: Final = runs
        self.hub: Final = hub
        self.look: Final = look
        self.limits: Final = limits
        self.heartbeat: Final = heartbeat
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ProtocolError while nothing has been sent."""
        principal = principal_of(scope)
        if principal is NOBODY:
            raise CredentialMissing("It goes into the header Authorization: Bearer.")
        check_target(principal, "GET", _LIST)
        found = single_headers(scope["headers"], frozenset((b"last-event-id",)))
        request = parse_follow(scope["query_string"].decode("latin-1"), found)
        connection = direct(scope)
        who = holder(client_of(scope), principal)
        with ExitStack() as stack:
            stack.enter_context(self.limits.readers.many)
            if self.limits.streams is not None:
                stack.enter_context(self.limits.streams.one(who))  # a list of no runs is a live read, too
            places = stack.enter_context(_Places(self.limits, who))
            reader = stack.enter_context(Multiplex(self.hub, self.heartbeat, connection))
            stack.enter_context(hangup(reader, receive, connection))
            live = stack.enter_context(LiveList(self.changes, principal.tenant, request.list))
            reader.expire(lasting(principal, self.limits.sse_max_age * random.uniform(1, 1.2), self._now()))
            response = _Response(self, request, principal.tenant, reader, live, places, send)
            await response.begin()
            # If the database is away, or a drain is over, the client comes back (law 9).
            with suppress(ProtocolError, StartAnew, asyncio.CancelledError):
                await response.run()
            await responses.finish(send)


class _Places:
    """The counters of one response's streams: all that this worker follows, and its credential's."""

    def __init__(self, limits: Limits, who: str) -> None:
        self._readers = limits.readers
        self._streams = limits.streams
        self._who = who
        self._held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._held:
            self.give_back()

    def take(self) -> bool:
        """Takes a place for one more stream. False if there is none."""
        if self._held >= MOST or self._readers.followed >= self._readers.most_followed:
            return False
        if self._streams is not None:
            if self._streams.full(self._who):
                return False
            self._streams.take(self._who)
        self._readers.followed += 1
        self._held += 1
        return True

    def give_back(self) -> None:
        self._held -= 1
        self._readers.followed -= 1
        if self._streams is not None:
            self._streams.give_back(self._who)


class _Response:
    """A response: the runs of which something may still have to be told, by their streams' numbers."""

    def __init__(
        self,
        lists: FollowedLists,
        request: FollowRequest,
        tenant: str,
        reader: Multiplex,
        live: LiveList,
        places: _Places,
        send: Send,
    ) -> None:
        self._lists = lists
        self._request = request
        self._tenant = tenant
        self._reader = reader
        self._live = live
        self._places = places
        self._send = send
        self._runs: dict[int, Run] = {}
        self._standing: Standing

    async def begin(self) -> None:
        """The head, and a first frame. Raises while nothing has been sent."""
        parts: Parts = []
        try:
            if self._request.standing is None:
                await self._begin_new()
            else:
                parts = await self._go_on(self._request.standing)
        except StartAnew:
            self._runs.clear()
            await self._begin_new()
            parts = [_ANEW]
        await self._reader.look(self._lists.look)
        await responses.start(self._send, 200, headers.of_sse(Encoding.JSON))
        if parts:
            await send_frame(self._send, self._id(), parts, first=True)
        else:
            await responses.piece(self._send, RETRY + b"id: %b\n\n" % self._id())

    async def _begin_new(self) -> None:
        found, more, self._standing = await self._lists.runs.named(self._request.list, self._tenant)
        if more:
            raise InvalidRequest(f"The list names more than {MOST} runs: narrow it, by status=active for instance.")
        self._live.stand(self._standing)
        if len(found) > MANY:
            await turn()
        for stream, id, ended in found:
            self._runs[stream] = Run(id, UNBEGUN, ended)
            if not self._follow(stream, self._request.begin):
                raise TooManyFollowed

    async def _go_on(self, standing: Standing) -> Parts:
        """Follows on where a reader stood, and takes what has come to the list since."""
        positions = self._request.positions
        ids = await self._lists.runs.ids(list(positions), self._tenant)
        if len(positions) > MANY:
            await turn()
        parts: Parts = []
        for stream, position in positions.items():
            self._runs[stream] = Run(ids.get(stream, ""), position)
            if position != OVER and stream in ids:  # of one that is removed the list tells
                start = self._request.begin if position == UNBEGUN else position
                if not self._follow(stream, start):
                    raise TooManyFollowed
        self._standing = standing
        while True:
            given = await self._live.next(self._standing)
            if isinstance(given, Signal):
                return parts
            parts += self._take(given)
            if self._standing.upto is None:
                return parts

    def _follow(self, stream: int, position: int) -> bool:
        run = self._runs[stream]
        if not self._places.take():
            return False
        run.followed = self._reader.follow(within(self._tenant, run.path), stream, position)
        return True

    def _leave(self, run: Run) -> None:
        if run.followed is not None:
            self._reader.unfollow(run.followed)
            run.followed = None
            self._places.give_back()

    async def run(self) -> None:
        """Sends what comes then, until the response is over."""
        events = asyncio.ensure_future(self._reader.next())
        heard = asyncio.ensure_future(self._live.next(self._standing))
        try:
            while True:
                await asyncio.wait((events, heard), return_when=asyncio.FIRST_COMPLETED)
                parts: Parts = []
                if heard.done():
                    parts += self._take(heard.result())
                    heard = asyncio.ensure_future(self._live.next(self._standing))
                if events.done():
                    given = events.result()
                    if given is Signal.OVER:
                        return
                    if not isinstance(given, Signal):
                        parts += await self._give(given)
                    elif not parts:
                        await responses.piece(self._send, HEARTBEAT)
                    events = asyncio.ensure_future(self._reader.next())
                if parts:
                    if len(self._runs) > MANY:
                        await turn()
                    await send_frame(self._send, self._id(), parts)
        finally:
            for waiting in (events, heard):
                waiting.cancel()
                if waiting.done() and not waiting.cancelled():
                    waiting.exception()  # of both that failed at once, one is told

    def _take(self, heard: tuple[list[Change], Standing] | Signal) -> Parts:
        """Takes what the list tells, its heartbeats apart: the streams have theirs."""
        if isinstance(heard, Signal):
            return []
        changes, self._standing = heard
        return [part for change in changes for part in self._hear(change)]

    def _hear(self, change: Change) -> Parts:
        """Takes a change of the list. Returns what there is to say of it, besides the run's own events."""
        run = self._runs.get(change.stream)
        status = self._request.list.status
        if change.kind == "removed":
            if run is None:
                return []
            del self._runs[change.stream]
            said = run.position == OVER
            self._leave(run)
            return [] if said else [many.refused(f"runs/{change.record.run_id}", StreamNotFound())]
        if run is None and (change.kind == "created" or (change.kind == "ended" and status not in (None, "active"))):
            run = self._runs[change.stream] = Run(change.record.run_id, START)
            if not self._follow(change.stream, START):
                del self._runs[change.stream]
                return [many.refused(run.path, TooManyFollowed())]
        if run is not None and change.kind == "ended":
            run.ended = True
            self._forget(change.stream)
        return []

    async def _give(self, given: Given) -> Parts:
        parts: Parts = []
        for followed, what in given:
            run = self._runs.get(followed.place)
            if run is None or run.followed is not followed:
                continue  # it was removed meanwhile, and had its last word
            if isinstance(what, ProtocolError):
                self._leave(run)
                run.position = OVER
                parts.append(many.refused(run.path, what))
            else:
                parts += await self._events(run, followed, what)
            self._forget(followed.place)
        return parts

    async def _events(self, run: Run, followed: Followed, batch: Batch) -> Parts:
        if self._request.fold is not None and followed.encoding is Encoding.JSON:
            batch = await in_turns(fold_in_pieces(self._request.fold, followed.encoding, batch), len(batch.body))
        behind = followed.behind
        run.position = batch.end
        if batch.closed:
            self._leave(run)
            run.position = OVER
        return many.parts(run.path, followed.encoding, batch, behind)

    def _forget(self, stream: int) -> None:
        """Forgets a run of which all was told, by its own stream and by the list."""
        run = self._runs[stream]
        if run.ended and run.position == OVER:
            del self._runs[stream]

    def _id(self) -> bytes:
        positions = {stream: run.position for stream, run in self._runs.items()}
        return list_offset.write(self._request.digest, self._standing, positions)
