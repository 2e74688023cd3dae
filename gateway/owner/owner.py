"""The room as the application uses it: in front of the application behind the gateway, for requests of a conversation.

A request goes to one of three places: to the application of this Machine, to the gateway of the owner, or back to Fly's
proxy, which takes it to the owner's Machine. One that another gateway has sent goes to the first, or is refused: there
is no second hop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpcore

from gateway.asgi import Message, Receive, Scope
from gateway.http import informational, responses
from gateway.http.door import Behind
from gateway.http.replay import replayable
from gateway.http.responses import Sending
from gateway.http.upstream import CUT, RELAYED, BadGateway, Upstream
from gateway.log import shared_secrets
from gateway.log.database import Database
from gateway.outage import SeldomLogger
from gateway.owner import order as orders
from gateway.owner.errors import NoOwner, NotOwner, OwnerLost, OwnerMoved, OwnerSilent
from gateway.owner.known import Known
from gateway.owner.lives import Lives, clock
from gateway.owner.order import Order
from gateway.owner.rows import Key, Table
from gateway.owner.rules import Owned
from gateway.owner.store import Life, Store
from gateway.owner.tape import MOST, Tape
from gateway.protocol.errors import Draining, Unavailable
from gateway.tasks import end, kept

logger = logging.getLogger("gateway.owner")
seldom: Final = SeldomLogger(logger)

PATIENCE: Final = 5.0
"""Seconds beyond the lease that a request waits for an owner."""
AT_ONCE: Final = 3
"""Times that a request asks anew at once who owns its conversation; then it waits for news between two."""
SECRETS: Final = 15.0
"""Seconds between two looks at the secrets that all Machines share."""

_ORDER: Final = "run_gateway.owner"
_READS: Final = ("GET", "HEAD")
# What happens before anything is sent: the causes of a BadGateway, of `http.upstream` and of `relay.asking`.
_UNSENT: Final = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, OSError)


class _Late(Exception):
    """The belief is over, or the application is another process: nothing more may be written to it."""


class _Moved(Exception):
    """The other gateway says that it is not the owner."""


@dataclass
class Counts:
    """What has become of requests of conversations, and of conversations."""

    routed: dict[str, int] = field(default_factory=lambda: {"local": 0, "relayed": 0, "replayed": 0, "received": 0})
    takes: dict[str, int] = field(default_factory=lambda: {"nobody": 0, "dead": 0})
    waits: int = 0
    late: int = 0


class Owner:
    """`inner` answers what is for this Machine's application."""

    def __init__(self, table: Table, lives: Lives, database: Database, store: Store, inner: Behind) -> None:
        self.counts = Counts()
        self.lives = lives
        self._table = table
        self._database = database
        self._store = store
        self._inner = inner
        self._known = Known(clock)
        self._keys: Sequence[bytes] = ()
        self._ways: dict[int, Upstream] = {}  # to other Machines, by their lives
        self._open: dict[int, set[asyncio.Future[None]]] = {}  # what is under way by a life; done: it is cut
        self._closing: set[asyncio.Task[None]] = set()
        self._secrets: asyncio.Task[None] | None = None
        lives.ended = self._ended

    async def start(self) -> None:
        """Begins to own. Raises Unavailable."""
        await self._read_secrets()
        await self.lives.start()
        self._secrets = kept("owner's secrets", self._keep_secrets)

    async def stop(self) -> None:
        """Owns nothing more."""
        await end(self._secrets)
        await self.lives.stop()
        for life in list(self._ways):
            self._leave(life)
        await end(*self._closing)

    def admit(self, scope: Scope) -> bool:
        """Whether another gateway has sent this request, which has counted it and let it in. The header that says so is
        taken away, whoever wrote it.
        """
        headers = scope["headers"]
        if not any(name == orders.HEADER for name, _ in headers):
            return False
        order = orders.read(headers, scope["method"], _target(scope), self._keys)
        scope["headers"] = orders.without(headers)
        if order is None:
            return False
        scope[_ORDER], scope[RELAYED] = order, True
        told = [value for name, value in headers if name == b"x-forwarded-for"]
        if told:
            scope["client"] = (told[-1].rpartition(b",")[2].strip().decode("latin-1"), 0)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Sending) -> None:
        """Answers a request that is not for the gateway itself. Raises ProtocolError while nothing has been sent."""
        key = self._table.find(scope["raw_path"])
        if key is None or scope["method"] == "OPTIONS":
            await self._inner(scope, receive, send)
            return
        request = _Request(key, scope["method"] not in _READS, scope, Tape(receive), send)
        order: Order | None = scope.get(_ORDER)
        if order is not None:
            await self._received(request, order)
        else:
            await self._route(request)

    async def _received(self, request: _Request, order: Order) -> None:
        """A request that another gateway has sent here. Raises NotOwner before anything reaches the application."""
        self.counts.routed["received"] += 1
        request.out = _Plain(request.send)
        until = clock() + self.lives.lease + PATIENCE
        while order.life == self.lives.life:
            owned = await self._ask(request, take=order.epoch == 0)
            if owned is None or owned.life != order.life:
                break
            if not self.lives.holds(order.life):
                await self._wait(until)
            elif await self._here(request, order.life) or request.send.begun:
                return
            elif not request.tape.rewind():
                raise OwnerMoved
            elif request.silent:
                request.silent = False
                await self._wait(until)
        raise NotOwner(headers=[(orders.HEADER, b"moved")])

    async def _route(self, request: _Request) -> None:
        until = clock() + self.lives.lease + PATIENCE
        tries = 0
        while True:
            if await self._try(request):
                return
            if request.send.begun:
                return  # and cut
            if not request.tape.rewind():
                raise OwnerMoved
            self._known.forget(request.key.digest)
            tries += 1
            if tries > AT_ONCE or request.silent:
                request.silent = False
                await self._wait(until)

    async def _try(self, request: _Request) -> bool:
        """Whether the request has been answered. If not, nothing of it has reached an application."""
        owned = await self._ask(request, take=request.writes and self.lives.can_take)
        if owned is None:
            if not request.writes:
                await self._inner(request.scope, request.tape, request.send)
                return True
            return await self._elsewhere(request)
        if owned.life == self.lives.life:
            if not self.lives.holds(owned.life):
                request.silent = True
                return False
            self.counts.routed["local"] += 1
            return await self._here(request, owned.life)
        other = self.lives.others.get(owned.life)
        if other is None:
            self.lives.hurry()  # it has begun just now, or ended
        if other is None or self.lives.suspect(other.life):
            request.silent = True
            return False
        return await self._there(request, other, owned.epoch)

    async def _elsewhere(self, request: _Request) -> bool:
        """Nobody has the conversation, and this Machine may not take it: has another one take it."""
        others = self.lives.healthy()
        if not others:
            if self.lives.draining:
                raise Draining
            request.silent = True
            return False
        others.sort(key=lambda life: life.life)
        return await self._there(request, others[request.key.digest[0] % len(others)], 0)

    async def _here(self, request: _Request, life: int) -> bool:
        """Sends the request to the application of this Machine."""
        guard = _Guard(self.lives, life) if request.writes else None
        token = informational.guard.set(guard)
        try:
            with self._under_way(life) as cut:
                await self._inner({**request.scope, CUT: cut}, request.tape, request.out)
                if not cut.done() or request.send.begun:
                    return True
        except _Late:
            self.counts.late += 1
        except BadGateway as error:
            if request.send.begun or not isinstance(error.__cause__, _UNSENT):
                raise
            request.silent = True  # it may come again, or another Machine take over
            self.lives.hurry()
            return False
        finally:
            informational.guard.reset(token)
        if guard is not None and guard.begun:
            raise OwnerLost
        return False

    async def _there(self, request: _Request, other: Life, epoch: int) -> bool:
        """Sends the request to another Machine."""
        scope = request.scope
        if other.fly is not None and replayable(dict(scope["headers"])):
            self.counts.routed["replayed"] += 1
            await responses.respond(request.send.as_it_is, 503, _replay(other.fly))
            return True
        method, target = scope["method"], _target(scope)
        value = orders.sign(Order(other.life, epoch), method, target, self._keys[-1])
        headers = [*scope["headers"], (orders.HEADER, value)]
        self.counts.routed["relayed"] += 1
        try:
            with self._under_way(other.life) as cut:
                way = self._way(other)
                await way({**scope, "headers": headers, CUT: cut}, request.tape, _Answer(request.send))
                if not cut.done() or request.send.begun:
                    return True
        except _Moved:
            return False
        except BadGateway as error:
            request.silent = True
            if isinstance(error.__cause__, _UNSENT):
                return False
            if request.writes:
                raise OwnerLost from error
            return False
        if request.writes:
            raise OwnerLost
        return False

    async def _ask(self, request: _Request, *, take: bool) -> Owned | None:
        """Who has the conversation; `take`: this Machine, if nobody has it. Raises Unavailable."""
        key = request.key
        life = self.lives.life
        owned = self._known.get(key.digest, life, fresh=request.large)
        if owned is not None:
            return owned
        try:
            if take and life is not None:
                found = await self._store.own(key, life)
                owned = None if found is None else found[0]
                if found is not None and found[1]:
                    self.counts.takes["nobody" if found[2] is None else "dead"] += 1
            else:
                owned = await self._store.owner(key)
        except Unavailable:
            owned = None if request.writes else self._known.last(key.digest)
            if owned is None:
                raise
            return owned
        if owned is not None:
            self._known.note(key.digest, owned)
        return owned

    async def _wait(self, until: float) -> None:
        """Waits for news of lives. Raises OwnerSilent when the time is over."""
        left = until - clock()
        if left <= 0:
            raise NoOwner if self.lives.life is None and not self.lives.others else OwnerSilent
        self.counts.waits += 1
        await self.lives.news(left)

    @contextmanager
    def _under_way(self, life: int) -> Iterator[asyncio.Future[None]]:
        """A future that is done when this life has ended."""
        cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        those = self._open.setdefault(life, set())
        those.add(cut)
        try:
            yield cut
        finally:
            those.discard(cut)
            if not those and self._open.get(life) is those:
                del self._open[life]

    def _ended(self, life: int) -> None:
        """A life has ended: what is under way by it is cut, so that clients come to the next owner."""
        for cut in self._open.pop(life, ()):
            if not cut.done():
                cut.set_result(None)
        self._leave(life)

    def _way(self, other: Life) -> Upstream:
        way = self._ways.get(other.life)
        if way is None:
            way = self._ways[other.life] = Upstream(other.address)
        return way

    def _leave(self, life: int) -> None:
        way = self._ways.pop(life, None)
        if way is not None:
            task = asyncio.ensure_future(way.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _read_secrets(self) -> None:
        found = await shared_secrets.read(self._database)
        known = [each for each in found["token"] if each.known]
        fresh = [each for each in found["token"] if not each.known]
        self._keys = [orders.key_of(each.secret) for each in (*fresh, *known)]  # the last of them signs

    async def _keep_secrets(self) -> None:
        while True:
            await asyncio.sleep(SECRETS)
            try:
                await self._read_secrets()
            except Unavailable:
                continue


class _Request:
    """A request of a conversation. `silent`: whoever has it cannot be reached now."""

    __slots__ = ("key", "large", "out", "scope", "send", "silent", "tape", "writes")

    def __init__(self, key: Key, writes: bool, scope: Scope, tape: Tape, send: Sending) -> None:
        self.key = key
        self.writes = writes
        self.scope = scope
        self.tape = tape
        self.send = send
        self.out = send
        self.silent = False
        length = dict(scope["headers"]).get(b"content-length", b"0")
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        self.large = chunked or len(length) > 6 or (length.isdigit() and int(length) > MOST)


class _Guard:
    """Asked before each write to the application. `begun`: something has been written."""

    __slots__ = ("_life", "_lives", "begun")

    def __init__(self, lives: Lives, life: int) -> None:
        self._lives = lives
        self._life = life
        self.begun = False

    def __call__(self) -> None:
        if not self._lives.holds(self._life) or not (self.begun or self._lives.same_process()):
            raise _Late
        self.begun = True


class _Answer:
    """The answer of another gateway, passed on without what is between gateways."""

    __slots__ = ("_send",)

    def __init__(self, send: Sending) -> None:
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if message["status"] == NotOwner.status and any(name == orders.HEADER for name, _ in message["headers"]):
                raise _Moved
            message["headers"] = [each for each in message["headers"] if each[0].lower() != b"gateway-machine"]
        await self._send.as_it_is(message)


class _Plain(Sending):
    """Answers of an application, which may not look like those of a gateway."""

    __slots__ = ("_of",)

    def __init__(self, of: Sending) -> None:
        super().__init__(of.send, responses.NOTHING)
        self._of = of

    async def as_it_is(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [each for each in message["headers"] if each[0].lower() != orders.HEADER]
        self.begun = True
        await self._of.as_it_is(message)


def _replay(fly: str) -> list[tuple[bytes, bytes]]:
    return [(b"fly-replay", b"instance=%b" % fly.encode()), (b"retry-after", b"1")]


def _target(scope: Scope) -> bytes:
    target: bytes = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    return target
