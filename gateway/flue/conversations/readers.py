"""Readers of conversations, in front of the way to the app that owns them: answered here, or passed on.

A reader is answered from rows once the app has answered it for the same conversation, a few minutes ago at most, and
has said all that the rows say. For one that wants to follow a conversation and is not known, the app is asked first for
the conversation's first page, and if that is not all of it, for its history.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gateway.asgi import Headers, Message, Receive, Scope
from gateway.fanout.follower import Follower, Signal
from gateway.fanout.hub import Hub
from gateway.flue.conversations import wire
from gateway.flue.conversations.answered import Answer, Answered, Claim, Memory, client, digest
from gateway.flue.conversations.conversation import id_of
from gateway.flue.conversations.errors import Gone
from gateway.flue.conversations.source import Source
from gateway.flue.conversations.wire import Asked, View
from gateway.http import responses
from gateway.http.door import Behind
from gateway.http.limits import Limits
from gateway.http.reading import hangup
from gateway.http.replay import STAYS
from gateway.http.responses import Sending
from gateway.http.upstream import RELAYED
from gateway.protocol.batch import Batch
from gateway.protocol.errors import Draining, ProtocolError, TooManyReaders
from gateway.protocol.frames import HEARTBEAT

SILENCE: Final = 24.0
"""Seconds after which an event stream says again where it is; Flue does after 30. Its client waits for that."""
LOOK: Final = 30.0
"""Seconds between two searches of all streams for the name of an agent."""
_ID: Final = re.compile(r"[\w~@:-][\w.~@:-]*", re.ASCII)  # which every part of an app takes for the same id
_PATH: Final = re.compile(r"agents/([^/]+)/(.+)")


class Readers:
    """`mounts`: where the app has its agents. `hub` reads from `source`."""

    def __init__(self, mounts: Sequence[str], source: Source, hub: Hub, limits: Limits, memory: Memory) -> None:
        self.answered = {"rows": 0, "app": 0}
        """Reads of conversations, by what has answered them."""
        self._mounts = [(mount, f"{mount}/".encode()) for mount in mounts]
        self._source = source
        self._hub = hub
        self._limits = limits
        self._memory = memory
        self._agents: dict[str, str] = {}  # their names in the tables, by mount
        self._search = asyncio.Lock()
        self._look_at: dict[str, float] = {}  # when such a name may be looked for again

    def before(self, inner: Behind, admit: Callable[[Scope], Awaitable[object]] | None = None) -> Behind:
        """Answers readers instead of `inner`, where that is surely what it would answer. `admit`: raises what the gate
        raises, if not the app alone says who may read.
        """

        async def answer(scope: Scope, receive: Receive, send: Sending) -> None:
            conversation = self._find(scope)
            asked = None if conversation is None else wire.parse(scope["query_string"])
            if conversation is None or asked is None:
                await inner(scope, receive, send)
                return
            if admit is not None:
                await admit(scope)  # a credential may be good no more since the app was asked
            who = client(scope, scope["raw_path"])
            scope[STAYS] = True  # or else nobody here sees what the app answers
            known = self._memory.get(who)
            if known is None and asked.live:
                known = await self._ask(inner, scope, receive, who, conversation)
            if known is not None and await self._from_rows(conversation, known, asked, receive, send):
                return
            self.answered["app"] += 1
            passing = _Passing(send)
            await inner(scope, receive, passing)
            if not asked.live:
                await self._learn(who, conversation, asked, passing)

        return answer

    def _find(self, scope: Scope) -> tuple[str, str] | None:
        """Mount and id of the conversation that is read."""
        if scope["method"] == "GET" and not scope.get(RELAYED) and not _has_body(scope):
            for mount, prefix in self._mounts:
                path: bytes = scope["raw_path"]
                if path.startswith(prefix):
                    id = path.removeprefix(prefix).decode("latin-1")
                    return (mount, id) if _ID.fullmatch(id) else None
        return None

    async def _ask(
        self, inner: Behind, scope: Scope, receive: Receive, who: bytes, conversation: tuple[str, str]
    ) -> Answered | None:
        """Asks the app, in this client's name, for the conversation. Raises ProtocolError."""
        for query, asked in ((wire.FIRST_PAGE, Asked(View.UPDATES)), (wire.ALL, Asked(View.HISTORY))):
            passing = _Passing(Sending(_nowhere, responses.NOTHING))
            await inner({**scope, "query_string": query}, receive, passing)
            await self._learn(who, conversation, asked, passing)
            if passing.claim is None or passing.claim.last:
                break
        return self._memory.get(who)

    async def _learn(self, who: bytes, conversation: tuple[str, str], asked: Asked, passing: _Passing) -> None:
        """Remembers what the app has answered, if it is what the rows say."""
        claim = passing.claim
        try:
            said = claim is not None and await self._is_said(conversation, asked, claim)
        except ProtocolError:
            said = False
        if passing.begun:
            self._memory.note(who, claim.answered if claim is not None and said else None)

    async def _is_said(self, conversation: tuple[str, str], asked: Asked, claim: Claim) -> bool:
        """Whether that is all, and the rows say the same. Raises Gone, Unavailable."""
        incarnation = claim.answered.incarnation
        rows = await self._source.read(await self._path(*conversation, incarnation))
        _check(rows.id, claim.answered)
        if asked.view is not View.HISTORY:
            whole = asked.position == 0 and claim.last
            return whole and claim.body == digest(wire.updates(incarnation, rows.between(0, claim.end)))
        return rows.tail == claim.end and claim.body == digest(rows.history())

    async def _from_rows(
        self, conversation: tuple[str, str], known: Answered, asked: Asked, receive: Receive, send: Sending
    ) -> bool:
        """Whether it has been answered. If not, nothing has been sent."""
        try:
            path = await self._path(*conversation, known.incarnation)
            if asked.live:
                await self._follow(path, known, asked, receive, send)
            else:
                await self._plain(path, known, asked, send)
        except Gone:
            if asyncio.get_running_loop().time() >= self._look_at.get(conversation[0], 0.0):
                self._agents.pop(conversation[0], None)  # it may be another one by now
            return False
        except ProtocolError:
            if send.begun:
                raise
            return False
        return True

    async def _path(self, mount: str, id: str, incarnation: str) -> str:
        """The path of a conversation in Flue's tables. Raises Gone, Unavailable."""
        agent = self._agents.get(mount)
        if agent is None:
            async with self._search:
                agent = self._agents.get(mount) or await self._found(mount, id, incarnation)
        return f"agents/{agent}/{id}"

    async def _found(self, mount: str, id: str, incarnation: str) -> str:
        """The name of the agent of a mount: that of its conversation. Raises Gone, Unavailable."""
        now = asyncio.get_running_loop().time()
        if now < self._look_at.get(mount, 0.0):
            raise Gone
        self._look_at[mount] = now + LOOK
        found = _PATH.fullmatch(await self._source.path_of(incarnation) or "")
        if found is None or found[2] != id:
            raise Gone
        self._agents[mount] = found[1]
        return found[1]

    async def _plain(self, path: str, known: Answered, asked: Asked, send: Sending) -> None:
        conversation = await self._source.read(path)
        _check(conversation.id, known)
        if asked.view is View.HISTORY:
            await self._respond(send, known, wire.of_history(conversation.tail), conversation.history())
        else:
            await self._updates(send, known, conversation.page(asked.position).batch)

    async def _follow(self, path: str, known: Answered, asked: Asked, receive: Receive, send: Sending) -> None:
        if self._hub.drained:
            raise Draining
        if self._limits.readers.full:
            raise TooManyReaders
        sse = asked.view is View.SSE
        counted = self._limits.readers.sse if sse else self._limits.readers.long_polls
        with counted, Follower(self._hub, path) as follower, hangup(follower, receive, None):
            page = await follower.begin(asked.position)
            _check(page.stream.id, known)
            if sse:
                follower.expire(self._limits.sse_max_age * random.uniform(1, 1.2))
                await self._events(follower, known, page.batch, send)
            else:
                follower.expire(self._limits.long_poll_timeout)
                await self._long_poll(follower, known, page.batch, send)

    async def _long_poll(self, follower: Follower, known: Answered, first: Batch, send: Sending) -> None:
        batch: Batch | Signal = first
        while batch is Signal.HEARTBEAT or (isinstance(batch, Batch) and batch.empty):
            batch = await follower.next()
        if follower.tail.ended:
            raise Gone
        nothing = Batch(follower.position, follower.position, b"", True, False)
        await self._updates(send, known, batch if isinstance(batch, Batch) else nothing)

    async def _events(self, follower: Follower, known: Answered, first: Batch, send: Sending) -> None:
        clock = asyncio.get_running_loop().time
        self.answered["rows"] += 1
        await responses.start(send.as_it_is, 200, [*wire.of_events(), *known.headers])
        await responses.piece(send.as_it_is, wire.first_event(known.incarnation))
        batch: Batch | Signal = first
        at = Batch(first.end, first.end, b"", True, False)
        del first
        told = 0.0
        while batch is not Signal.OVER:
            frame = HEARTBEAT
            if isinstance(batch, Batch):
                frame, told, at = wire.events(batch), clock(), Batch(batch.end, batch.end, b"", batch.up_to_date, False)
            elif clock() >= told + SILENCE:
                frame, told = HEARTBEAT + wire.events(at), clock()
            await responses.piece(send.as_it_is, frame)
            del frame, batch  # so that no page is kept in memory while this waits
            try:
                batch = await follower.next()
            except (ProtocolError, asyncio.CancelledError):
                break  # it ends cleanly, and its client comes back (law 9)
        await responses.finish(send.as_it_is)

    async def _updates(self, send: Sending, known: Answered, batch: Batch) -> None:
        await self._respond(send, known, wire.of_updates(batch), wire.updates(known.incarnation, batch))

    async def _respond(self, send: Sending, known: Answered, headers: Headers, body: bytes) -> None:
        self.answered["rows"] += 1
        await responses.respond(send.as_it_is, 200, [*headers, *known.headers], body)


class _Passing(Sending):
    """An answer of the app's on its way. `claim`: what it says, when it has come whole."""

    __slots__ = ("_answer", "_of", "claim")

    def __init__(self, of: Sending) -> None:
        super().__init__(of.send, responses.NOTHING)
        self.claim: Claim | None = None
        self._of = of
        self._answer: Answer | None = None

    async def __call__(self, message: Message) -> None:
        self.begun = True
        await self._of(message)

    async def as_it_is(self, message: Message) -> None:
        self.begun = True
        if message["type"] == "http.response.start":
            answer = Answer(message["status"], message["headers"])
            self._answer = answer if answer.plain else None
        elif self._answer is not None:
            self._answer.piece(message.get("body", b""))
            if not message.get("more_body", False):
                self.claim = self._answer.claim()
        await self._of.as_it_is(message)


def _check(id: int, known: Answered) -> None:
    """Raises Gone if this is not the stream of which the app has spoken."""
    if id != id_of(known.incarnation):
        raise Gone


def _has_body(scope: Scope) -> bool:
    """Whether a request has a body, which may say who it is from."""
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


async def _nowhere(_: Message) -> None:
    """Swallows an answer that nobody waits for."""
