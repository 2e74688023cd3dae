"""`/v1/stream?live=sse`: many streams in one event stream, each read as by a reader of its own.

Every stream has its own say: a refusal of one, such as 404 or 403, is its word in the response, and the others go on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.responses import Response

from gateway.asgi import Receive, Scope, Send, client_of
from gateway.auth.errors import CredentialMissing
from gateway.auth.gate import Admit, check_stream, check_target, principal_of
from gateway.auth.principal import NOBODY, Principal
from gateway.fanout.follower import Signal, direct
from gateway.fanout.hub import Hub
from gateway.fanout.multiplex import Followed, Given, Look, Multiplex
from gateway.http import responses
from gateway.http.limits import Limits
from gateway.http.reading import hangup, lasting
from gateway.protocol import headers, many
from gateway.protocol.batch import Batch, Encoding
from gateway.protocol.composite import OVER, UNBEGUN, Composite
from gateway.protocol.errors import Draining, InvalidRequest, ProtocolError, TooManyFollowed, TooManyReaders
from gateway.protocol.frames import HEARTBEAT
from gateway.protocol.target import Target, within
from gateway.quotas import TooManyStreams, holder
from gateway.tasks import in_turns, turn

OFFSETS: Final = 256 << 10
"""Bytes of offsets that one response is sent in a second: with many streams, what comes within some ms is one frame."""

JUDGED: Final = 16  # streams that are judged in one turn of the loop: each may bear a token of its own to be verified

SHORT: Final = 512  # bytes of an offset that is sent with each frame at once
_FORBIDDEN: Final = (401, 403)


Answer = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class Member:
    """A stream of a request, as it was judged. `principal`: its reader; `refusal`: why it cannot be read."""

    path: str
    place: int
    stored: str = ""
    principal: Principal = NOBODY
    refusal: ProtocolError | None = None


class Following:
    """Answers requests to follow many streams of the log that `hub` follows; `look` asks the log for many at once.

    `admit` judges the token that a stream has of its own. `heartbeat` is seconds, `now` gives seconds since 1970.
    """

    def __init__(
        self, hub: Hub, look: Look, limits: Limits, admit: Admit, heartbeat: float, now: Callable[[], float]
    ) -> None:
        self._hub = hub
        self._look = look
        self._limits = limits
        self.folding = limits.folding
        self._admit = admit
        self._heartbeat = heartbeat
        self._now = now
        self.of_a_list: Answer | None = None  # answers requests that name a list of runs and no streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a GET or a POST. Raises ProtocolError while nothing has been sent."""
        self.check_room(scope, 1)
        if self.of_a_list is not None and many.names_a_list(scope["query_string"]):
            await self.of_a_list(scope, receive, send)
            return
        asked = None
        if scope["method"] == "POST":
            body = await self._limits.bodies.read(scope, receive, min(many.MAX_BODY, self._limits.max_body))
            asked = await in_turns(many.asked_in_pieces(body), len(body))
        request = many.parse_many(scope["headers"], scope["query_string"], asked)
        members: list[Member] = []
        for place in range(len(request.streams)):
            if place % JUDGED == JUDGED - 1:
                await turn()
            members.append(await self._judge(scope, request, place))
        wanted = [member for member in members if member.refusal is None and request.start(member.place) != OVER]
        if not wanted:
            for member in members:
                if member.refusal is not None:
                    raise member.refusal
            await responses.respond(send, 204, [headers.NO_STORE])  # ends an EventSource, which was told of all ends
            return
        with self._room(scope, len(wanted)):
            response = _Response(self, request, members, scope, send)
            await response.run(wanted, self._hub, self._look, self._heartbeat, receive)

    async def _judge(self, scope: Scope, request: many.ManyRequest, place: int) -> Member:
        """Decides, once for each stream, whether it may be read, and by whom."""
        wanted = request.streams[place]
        member = Member(wanted.path, place)
        try:
            target = Target.of(f"/v1/stream/{wanted.path}")
            if target.stream != wanted.path or target.part not in many.PARTS:
                raise InvalidRequest("There is no stream that can be followed at this path.")
            target.check()
            member.principal = await self._reader(scope, target, wanted.token)
            member.stored = within(member.principal.tenant, wanted.path)
        except ProtocolError as error:
            if error.status == 503:
                raise
            member.refusal = error
        return member

    async def _reader(self, scope: Scope, target: Target, token: str | None) -> Principal:
        if token is not None:
            shown = {b"authorization": b"Bearer " + token.encode("latin-1", "replace")}
            admitted = self._admit("GET", target, shown, b"")
            return admitted if isinstance(admitted, Principal) else await admitted()
        principal = principal_of(scope)
        if principal is NOBODY:
            raise CredentialMissing("The request has none, nor has this stream a token of its own.")
        check_target(principal, "GET", target)
        return principal

    def check_room(self, scope: Scope, count: int) -> None:
        """Raises Draining, TooManyReaders, TooManyFollowed, TooManyStreams."""
        if self._hub.drained:
            raise Draining
        readers, streams = self._limits.readers, self._limits.streams
        if readers.full:
            raise TooManyReaders
        if readers.followed + count > readers.most_followed:
            raise TooManyFollowed(f"At most {readers.most_followed} by all responses.")
        if streams is not None and streams.full(_holder(scope), count):
            raise TooManyStreams(f"At most {streams.limit} at once.")

    @contextmanager
    def _room(self, scope: Scope, count: int) -> Iterator[None]:
        """Room for one response that follows so many streams, each of which counts as a live read of its credential.

        Raises what `check_room` raises.
        """
        self.check_room(scope, count)
        readers, streams = self._limits.readers, self._limits.streams
        readers.followed += count
        try:
            with readers.many, nullcontext() if streams is None else streams.one(_holder(scope), count):
                yield
        finally:
            readers.followed -= count

    def response_time(self, members: Sequence[Member]) -> float:
        """Seconds that a response may last: until its maximum age, or until the first of its credentials expires."""
        wanted = self._limits.sse_max_age * random.uniform(1, 1.2)
        return min(lasting(member.principal, wanted, self._now()) for member in members)


def _holder(scope: Scope) -> str:
    return holder(client_of(scope), principal_of(scope))


class _Response:
    """A response: its streams, and the offset of all of them."""

    def __init__(
        self, following: Following, request: many.ManyRequest, members: list[Member], scope: Scope, send: Send
    ) -> None:
        self._following = following
        self._request = request
        self._members = members
        self._connection = direct(scope)
        self._send = send
        self._folding = following.folding
        self._offset = Composite(request.digest, request.positions or [UNBEGUN] * len(members))

    async def run(self, wanted: list[Member], hub: Hub, look: Look, heartbeat: float, receive: Receive) -> None:
        with Multiplex(hub, heartbeat, self._connection) as reader, hangup(reader, receive, self._connection):
            for member in wanted:
                check = partial(check_stream, member.principal)
                reader.follow(member.stored, member.place, self._request.start(member.place), check)
            reader.expire(self._following.response_time(wanted))
            await reader.look(look)
            given = await reader.next()
            await responses.start(self._send, 200, headers.of_sse(Encoding.JSON))
            refused: list[many.Line] = [
                many.refused(member.path, member.refusal) for member in self._members if member.refusal
            ]
            await self._tell(reader, given, refused, first=True)
            while reader.followed and given is not Signal.OVER:
                del given  # so that no page is kept in memory while this waits
                try:
                    given = await reader.next()
                except (ProtocolError, asyncio.CancelledError):
                    break  # the log is away, or a drain is over: the client comes back (law 9)
                await self._tell(reader, given, [])
            if len(reader.followed) > JUDGED:
                await turn()  # each of them is unfollowed
        await responses.finish(self._send)

    async def _tell(
        self, reader: Multiplex, given: Given | Signal, parts: list[many.Line], *, first: bool = False
    ) -> None:
        if not isinstance(given, Signal):
            for followed, what in given:
                if isinstance(what, Batch) and self._request.fold is not None and followed.encoding is Encoding.JSON:
                    what = await self._folding.live(self._request.fold, followed.path, followed.encoding, what)
                parts += self._parts(reader, followed, what)
        if not parts:
            if given is Signal.HEARTBEAT:
                await responses.piece(self._send, HEARTBEAT)
            return
        await send_frame(self._send, bytes(self._offset), parts, first=first)

    def _parts(self, reader: Multiplex, followed: Followed, what: Batch | ProtocolError) -> Iterable[many.Line]:
        path = self._members[followed.place].path
        if isinstance(what, ProtocolError):
            reader.unfollow(followed)
            if what.status not in _FORBIDDEN:
                self._offset.move(followed.place, OVER)
            return [many.refused(path, what)]
        if what.closed:
            reader.unfollow(followed)
        self._offset.move(followed.place, OVER if what.closed else what.end)
        return many.parts(path, followed.encoding, what, followed.behind)


async def send_frame(send: Send, offset: bytes, parts: Iterable[many.Line], *, first: bool = False) -> None:
    """Sends parts in one frame. Pauses if the frame's offset is long, so that the next frame gathers more."""
    await responses.parts(send, many.frame(offset, parts, first=first))
    if len(offset) > SHORT:
        await asyncio.sleep(len(offset) / OFFSETS)


class EventStream(Response):
    """An answer of FastAPI's that is given by a part of the gateway, which refuses by raising. `scope`: of the request,
    as that part is to read it.
    """

    def __init__(self, answer: Answer, scope: Scope) -> None:
        super().__init__()
        self._answer = answer
        self._scope = scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._answer(self._scope, receive, send)
