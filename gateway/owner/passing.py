"""Carries a request of a conversation to its place: to the local application or to another gateway."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import httpcore

from gateway.asgi import Message, Scope
from gateway.http import responses
from gateway.http.responses import Sending
from gateway.http.upstream import lost
from gateway.owner import order as orders
from gateway.owner.errors import NotOwner
from gateway.owner.lives import Lives
from gateway.owner.rows import Key
from gateway.owner.tape import MOST, Tape
from gateway.owner.under_way import UnderWay

READS: Final = ("GET", "HEAD")


class Late(Exception):
    """The belief is over, or the application is another process: nothing more may be written to it."""


UNSENT: Final = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout, OSError, Late)
"""Causes of a BadGateway, of `http.upstream` and of `relay.asking`, that come before anything is sent."""


class Moved(Exception):
    """The other gateway says that it is not the owner."""


class Asked:
    """A request of a conversation. `out` is where its answer goes; `silent`: its owner cannot be reached now."""

    __slots__ = ("key", "large", "out", "scope", "send", "silent", "tape", "writes")

    def __init__(self, key: Key, scope: Scope, tape: Tape, send: Sending) -> None:
        self.key = key
        self.writes = scope["method"] not in READS
        self.scope = scope
        self.tape = tape
        self.send = send
        self.out = Noting(send)
        self.silent = False
        length = dict(scope["headers"]).get(b"content-length", b"0")
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        self.large = chunked or not length.isdigit() or int(length) > MOST

    @property
    def left(self) -> bool:
        """Whether the client has gone, as far as the server tells."""
        return lost(self.scope)

    async def leave(self) -> None:
        """Ends an answer that was cut: cleanly, where its clients come back after that, and else not at all."""
        if self.key.row.clean and self.out.events:
            await responses.finish(self.send.as_it_is)


class Guard:
    """The guard that is asked before each write to the local application. `begun`: something has been written."""

    __slots__ = ("_life", "_lives", "begun")

    def __init__(self, lives: Lives, life: int) -> None:
        self._lives = lives
        self._life = life
        self.begun = False

    def __call__(self) -> None:
        if not self._lives.holds(self._life) or not (self.begun or self._lives.same_process()):
            raise Late
        self.begun = True


class Holding:
    """A conversation that is being written to by this life (`gateway.http.owned.Held`)."""

    __slots__ = ("_life", "_lives", "_under_way", "key")

    def __init__(self, key: bytes, life: int, lives: Lives, under_way: UnderWay) -> None:
        self.key = key
        self._life = life
        self._lives = lives
        self._under_way = under_way

    def keep(self, lost: Callable[[], None]) -> Callable[[], None]:
        return self._under_way.keep(self._life, self.key, lost)

    def guard(self) -> Guard:
        return Guard(self._lives, self._life)


class Noting(Sending):
    """The local application's answers, which may not look like those of a gateway. `events`: it is an event stream;
    `whole`: all of it was sent.
    """

    __slots__ = ("_of", "events", "whole")

    def __init__(self, of: Sending) -> None:
        super().__init__(of.send, responses.NOTHING)
        self.events = False
        self.whole = False
        self._of = of

    async def as_it_is(self, message: Message) -> None:
        self.begun = True
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.whole = True
        if message["type"] == "http.response.start":
            self.note(message)
            message["headers"] = [each for each in message["headers"] if each[0].lower() != orders.HEADER]
        await self._of.as_it_is(message)

    def note(self, message: Message) -> None:
        """An answer begins."""
        self.events = any(
            name.lower() == b"content-type" and value.lower().startswith(b"text/event-stream")
            for name, value in message["headers"]
        )


def watched(seconds: float) -> list[tuple[int, int, int]]:
    """Options of a socket by which a connection fails when nothing has come back over it for about so many seconds."""
    part = max(1, int(seconds / 3))
    told = {"TCP_KEEPIDLE": part, "TCP_KEEPINTVL": part, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": int(seconds * 1000)}
    options = [
        (socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in told.items() if hasattr(socket, name)
    ]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *options]


class OfAnother:
    """The answer of another gateway, passed on without what is between gateways."""

    __slots__ = ("_asked",)

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"]
            if message["status"] == NotOwner.status and any(name.lower() == orders.HEADER for name, _ in headers):
                raise Moved
            self._asked.out.note(message)
            message["headers"] = [each for each in headers if each[0].lower() != b"gateway-machine"]
        await self._asked.send.as_it_is(message)
