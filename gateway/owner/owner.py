"""The room as the application uses it: in front of the application behind the gateway, for requests of a conversation.

A request goes to one of three places: to the application of this Machine, to the gateway of the owner, or back to Fly's
proxy, which takes it to the owner's Machine. One that another gateway has sent goes to the first, or is refused: there
is no second hop.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import httpcore

from gateway.asgi import Receive, Scope
from gateway.http import informational, responses
from gateway.http.door import Behind
from gateway.http.owned import HELD
from gateway.http.replay import STAYS, replayable
from gateway.http.responses import Sending
from gateway.http.upstream import CUT, RELAYED, BadGateway, Upstream
from gateway.log import shared_secrets
from gateway.log.database import Database
from gateway.owner import order as orders
from gateway.owner.errors import NoOwner, NotOwner, OwnerLost, OwnerMoved, OwnerSilent
from gateway.owner.handing import Handing
from gateway.owner.inheriting import Inheriting, Recorded
from gateway.owner.known import Known
from gateway.owner.lives import Lives, clock
from gateway.owner.order import Order
from gateway.owner.passing import READS, UNSENT, Asked, Guard, Holding, Late, Moved, OfAnother, watched
from gateway.owner.questions import Questions
from gateway.owner.rows import Key, Table
from gateway.owner.rules import Owned
from gateway.owner.store import Life, Store
from gateway.owner.tape import Tape
from gateway.owner.under_way import UnderWay
from gateway.owner.work import work_of
from gateway.protocol.errors import Draining, Unavailable
from gateway.tasks import end, forever, kept

logger = logging.getLogger("gateway.owner")

PATIENCE: Final = 5.0
"""Seconds beyond the lease that a request waits for an owner."""
AT_ONCE: Final = 3
"""Times that a request asks anew at once who owns its conversation; then it waits for news between two."""
SECRETS: Final = 15.0
"""Seconds between two looks at the secrets that all Machines share."""
MOVES: Final = 1.0
"""Seconds between two looks whether what is read here has come to be owned elsewhere."""

TENANT: Final = b"run-gateway-tenant"
"""The header that tells the application whose conversation it is, where AUTH is asked."""

Admit = Callable[[Scope, bool], Awaitable[str]]
"""The tenant of a request that is let in; whether it writes. Raises ProtocolError."""

_ORDER: Final = "run_gateway.owner"
_NO_WORD: Final = re.compile(rb"[^a-z0-9]")


@dataclass
class Counts:
    """Counts of requests by the way that they took, and of conversations by why they were taken."""

    routed: dict[str, int] = field(default_factory=lambda: {"local": 0, "relayed": 0, "replayed": 0, "received": 0})
    takes: dict[str, int] = field(default_factory=lambda: {"nobody": 0, "dead": 0})
    waits: int = 0
    late: int = 0


class Owner:
    """The owners of conversations, asked before the application behind the gateway. `inner` answers what is for this
    Machine's application, which is at `origin`. `recorded`: see Inheriting. `admit`: lets requests in, where not the
    application alone decides.
    """

    def __init__(
        self,
        table: Table,
        lives: Lives,
        database: Database,
        store: Store,
        inner: Behind,
        origin: str,
        recorded: Recorded,
        admit: Admit | None = None,
    ) -> None:
        self.counts = Counts()
        self.lives = lives
        self.under_way = UnderWay(lives.shared)
        self._table = table
        self._database = database
        self._store = store
        self._inner = inner
        self._admit = admit
        self._pool = httpcore.AsyncConnectionPool()
        work = {row.name: each for row in table.rows if (each := work_of(row, origin, self._pool)) is not None}
        self.handing = Handing(lives, store, self.under_way, work)
        self.inheriting = Inheriting(lives, store, work, recorded)
        self._known = Known(clock)
        self._questions = Questions(self._known)
        self._passed = lives.shared.passed
        self._keys: Sequence[bytes] = ()
        self._ways: dict[int, Upstream] = {}  # to other Machines, by their lives
        self._closing: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        lives.ended = self._ended

    async def start(self) -> None:
        """Begins to own. Raises Unavailable."""
        await self._read_secrets()
        await self.lives.start()
        part = self.lives.lease / 4
        self._tasks = [
            kept("owner's secrets", lambda: forever("owner's secrets", self._read_secrets, lambda: SECRETS, late=True)),
            kept("owner's moves", lambda: forever("owner's moves", self._move, lambda: MOVES)),
            kept("owner's heritage", lambda: forever("owner's heritage", self.inheriting, lambda: part)),
        ]

    async def hand_over(self, seconds: float) -> None:
        """Gives away what is owned here, as soon as it is idle, within so many seconds; all else goes on."""
        await self.handing.give_all(seconds)

    async def stop(self) -> None:
        """Owns nothing more."""
        await end(*self._tasks)
        await self.lives.stop()
        for life in list(self._ways):
            self._leave(life)
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._closing)
        await self._pool.aclose()

    def switched(self) -> None:
        """Another database server has taken over."""
        self._known.forget_all()
        self._questions.doubt_all()
        self.lives.switched()

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
        if self._admit is not None:  # what the application believes of it comes from here alone
            scope["headers"] = [each for each in scope["headers"] if not _names_tenant(each[0])]
        key = self._table.find(scope["raw_path"])
        if key is None or scope["method"] == "OPTIONS":
            if _ORDER in scope:
                raise _not_owner()  # a gateway with other rows has sent it
            await self._inner(scope, receive, send)
            return
        if self._admit is not None:
            tenant = await self._admit(scope, scope["method"] not in READS)  # an order says nothing of it: asked anew
            scope["headers"].append((TENANT, tenant.encode()))
            key = key.of_tenant(tenant)
        asked = Asked(key, scope, Tape(receive), send)
        order: Order | None = scope.get(_ORDER)
        async with self.under_way.writing(key.digest) if asked.writes else nullcontext():
            await (self._route(asked) if order is None else self._receive(asked, order))

    async def take(self, key: Key) -> bool:
        """Takes a conversation for this Machine, unless another living one owns it. Returns whether this Machine owns
        it now.

        Raises Unavailable.
        """
        life = self.lives.life
        if life is None:
            return False
        owned = await (self._own(key, life) if self.lives.can_take else self._store.owner(key))
        return owned is not None and owned.life == life

    @property
    def life(self) -> int | None:
        """The life by which this Machine owns conversations; None: it owns none."""
        return self.lives.life

    async def hold(self, key: bytes, lost: Callable[[], None]) -> tuple[Holding, Callable[[], None]] | None:
        """Keeps a conversation of this Machine, as `http.owned.Owners` has it."""
        async with self.under_way.writing(key):
            life = self.lives.life
            if life is None:
                return None
            held = Holding(key, life, self.lives, self.under_way)
            return held, held.keep(lost)

    async def owners(self, keys: Sequence[Key]) -> Mapping[bytes, Owned]:
        """The owners of these conversations, by their digests. Raises Unavailable."""
        return await self._store.owners([key.digest for key in keys])

    async def pass_on(self, key: Key, to: int) -> bool:
        """Gives a conversation of this Machine to another life, whose application works on it. Returns whether it did.

        Raises Unavailable.
        """
        life = self.lives.life
        try:
            return life is not None and await self.handing.pass_on(key.digest, life, to)
        finally:
            self.doubt(key)  # also where the database's answer was lost

    def doubt(self, key: Key) -> None:
        """Has the next request ask again who owns this conversation."""
        self._known.doubt(key.digest)
        self._questions.doubt(key.digest)

    async def _receive(self, asked: Asked, order: Order) -> None:
        """Answers a request that another gateway has sent. Raises NotOwner before anything reaches the application."""
        self.counts.routed["received"] += 1
        until = clock() + self.lives.lease + PATIENCE
        while order.life == self.lives.life:
            owned = await self._ask(asked, take=order.epoch == 0)
            if owned is None or owned.life != order.life:
                break
            if not self.lives.holds(order.life) and asked.writes:
                await self._wait(asked, until)
            elif await self._here(asked, order.life) or asked.send.begun:
                return
            elif not asked.tape.rewind():
                raise OwnerMoved
            elif asked.silent:
                asked.silent = False
                await self._wait(asked, until)
        raise _not_owner()

    async def _route(self, asked: Asked) -> None:
        """A request that a client has sent here."""
        until = clock() + self.lives.lease + PATIENCE
        tries = 0
        while not await self._try(asked) and not asked.send.begun:
            if not asked.tape.rewind():
                raise OwnerMoved
            self.doubt(asked.key)
            tries += 1
            if tries > AT_ONCE or asked.silent:
                asked.silent = False
                await self._wait(asked, until)

    async def _try(self, asked: Asked) -> bool:
        """Whether the request has been answered. If not, nothing of it has reached an application."""
        owned = await self._ask(asked, take=asked.writes and self.lives.can_take)
        if owned is None:
            return await (self._elsewhere(asked) if asked.writes else self._here(asked, None))
        if owned.life == self.lives.life:
            if asked.writes and not self.lives.holds(owned.life):
                asked.silent = True
                return False
            self.counts.routed["local"] += 1
            return await self._here(asked, owned.life)
        other = self.lives.others.get(owned.life)
        if other is None:
            self.lives.hurry()  # it has begun just now, or ended
        if other is None or self.lives.suspect(other.life):
            asked.silent = True
            return False
        return await self._there(asked, other, owned.epoch)

    async def _elsewhere(self, asked: Asked) -> bool:
        """Sends the request to a Machine that may take the conversation: nobody owns it, and this Machine may not."""
        others = sorted(self.lives.healthy(), key=lambda life: life.life)
        if others:
            return await self._there(asked, others[asked.key.digest[0] % len(others)], 0)
        if self.lives.draining:
            raise Draining
        asked.silent = True
        return False

    async def _here(self, asked: Asked, life: int | None) -> bool:
        """Sends the request to the application of this Machine. `life`: by which; None: a read of what nobody owns."""
        guard = Guard(self.lives, life) if asked.writes and life is not None else None
        token = informational.guard.set(guard)
        try:
            with self.under_way.answering(life, None if asked.writes else asked.key.digest) as cut:
                scope = {**asked.scope, CUT: cut}
                if guard is not None and life is not None:
                    scope[HELD] = Holding(asked.key.digest, life, self.lives, self.under_way)
                await self._inner(scope, asked.tape, asked.out)
                if asked.out.whole or not cut.done():
                    return True
        except Late:
            self.counts.late += 1
        except BadGateway as error:
            if asked.send.begun or life is None or not isinstance(error.__cause__, UNSENT):
                raise
            asked.silent = True  # it may come again, or another Machine take over
            self.lives.hurry()
            return False
        finally:
            informational.guard.reset(token)
        return await self._cut(asked, guard is not None and guard.begun)

    async def _there(self, asked: Asked, other: Life, epoch: int) -> bool:
        """Sends the request to another Machine."""
        scope = asked.scope
        if other.fly is not None and not scope.get(STAYS) and replayable(_told_length(scope)):
            self.counts.routed["replayed"] += 1
            await responses.respond(asked.send.as_it_is, 503, _replay(other.fly))
            return True
        value = orders.sign(Order(other.life, epoch), scope["method"], _target(scope), self._keys[-1])
        headers = [*scope["headers"], (orders.HEADER, value)]
        self.counts.routed["relayed"] += 1
        try:
            with self.under_way.answering(other.life, None) as cut:
                await self._way(other)({**scope, "headers": headers, CUT: cut}, asked.tape, OfAnother(asked))
                if not cut.done():
                    return True
        except Moved:
            return False
        except BadGateway as error:
            asked.silent = True
            if asked.writes and not isinstance(error.__cause__, UNSENT):
                raise OwnerLost from error
            return False
        return await self._cut(asked, asked.writes)

    async def _cut(self, asked: Asked, may_have_been_carried_out: bool) -> bool:
        """Ends a request whose way was cut, if its answer has begun. Returns whether it has; if not, the request may be
        sent again. Raises OwnerLost.
        """
        if asked.send.begun:
            await asked.leave()
            return True
        if may_have_been_carried_out:
            raise OwnerLost
        return False

    async def _ask(self, asked: Asked, *, take: bool) -> Owned | None:
        """Asks who owns the conversation. `take`: this Machine takes it, if nobody does. Raises Unavailable."""
        key, life, draining = asked.key, self.lives.life, self.lives.draining
        if self._passed != self.lives.shared.passed:  # by another worker: what it was is ours no more
            self._passed = self.lives.shared.passed
            self._known.doubt_all()
            self._questions.doubt_all()
        fresh = draining or asked.large
        owned = self._known.get(key.digest, None if draining else life, fresh=fresh)
        if owned is not None:
            return owned
        taker = life if take else None
        ask = partial(self._store.owner, key) if taker is None else partial(self._own, key, taker)
        try:
            if fresh:
                return await ask()
            return await self._questions(key.digest, taker, ask)
        except Unavailable:
            owned = None if asked.writes else self._known.last(key.digest)
            if owned is None:
                raise
            return owned

    async def _own(self, key: Key, life: int) -> Owned | None:
        found = await self._store.own(key, life)
        if found is None:
            return None
        owned, taken, before = found
        if taken:
            self.counts.takes["nobody" if before is None else "dead"] += 1
        return owned

    async def _wait(self, asked: Asked, until: float) -> None:
        """Waits for news of lives. Raises OwnerSilent when the time is over, or the client has gone."""
        left = until - clock()
        if left <= 0:
            raise NoOwner if self.lives.life is None and not self.lives.others else OwnerSilent
        self.counts.waits += 1
        await self.lives.news(left)
        if asked.left:
            raise OwnerSilent  # to nobody: what its client has given up is not sent any more

    async def _move(self) -> None:
        """Readers who are at this Machine's application, and whose conversation has another owner, have to go there."""
        life = None if self.lives.draining else self.lives.life
        doubtful = [each for each in self.under_way.reads if self._known.get(each, life, fresh=True) is None]
        for digest, owned in (await self._store.owners(doubtful) if doubtful else {}).items():
            if owned.life != self.lives.life:
                self.under_way.move(digest)
            else:
                self._known.note(digest, owned)

    def _ended(self, life: int) -> None:
        """A life has ended: what is under way by it is cut, so that clients come to the next owner."""
        self.under_way.end(life)
        self._leave(life)

    def end(self) -> None:
        """A drain is over: what is passed on to other Machines is cut."""
        for way in self._ways.values():
            way.end()

    def _way(self, other: Life) -> Upstream:
        way = self._ways.get(other.life)
        if way is None:
            way = self._ways[other.life] = Upstream(other.address, watched(self.lives.lease + PATIENCE))
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


def _told_length(scope: Scope) -> dict[bytes, bytes]:
    """A request's headers; one that has no body says so."""
    headers = dict(scope["headers"])
    return headers if b"transfer-encoding" in headers else {b"content-length": b"0", **headers}


def _not_owner() -> NotOwner:
    return NotOwner(headers=[(orders.HEADER, b"moved")])


def _replay(fly: str) -> list[tuple[bytes, bytes]]:
    return [(b"fly-replay", b"instance=%b" % fly.encode()), (b"retry-after", b"1")]


def _names_tenant(name: bytes) -> bool:
    """Whether some application takes a header of this name for TENANT: behind CGI, what is no letter is one sign."""
    return len(name) == len(TENANT) and _NO_WORD.sub(b"-", name) == TENANT


def _target(scope: Scope) -> bytes:
    target: bytes = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    return target
