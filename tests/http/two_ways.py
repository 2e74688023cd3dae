"""Connections without a socket, to an application that offers a way past ASGI or does not; and a stub for its log."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from unittest.mock import patch

import uvicorn
from uvicorn.server import ServerState

from gateway.app import Gateway
from gateway.http.connection import connections
from gateway.http.fast_append import Post
from gateway.log.appends import Appended, Settle
from gateway.protocol.append import AppendRequest
from gateway.protocol.batch import Stream
from gateway.protocol.errors import ProtocolError, StreamClosed, StreamNotFound, TooManyPending, Unavailable
from gateway.settings import Settings
from gateway.wire import transport

TURNS = 20  # of the loop, in which everything that can go on has gone on


@dataclass
class Log:
    """Answers by the name of the stream, when it is told to; knows what it was asked."""

    asked: list[AppendRequest] = field(default_factory=list)
    waiting: list[tuple[AppendRequest, Settle]] = field(default_factory=list)

    def submit(self, request: AppendRequest, settle: Settle) -> None:
        if request.path.endswith("full"):
            raise TooManyPending
        if request.path.endswith("broken"):
            raise RuntimeError
        self.asked.append(request)
        self.waiting.append((request, settle))

    async def append(self, request: AppendRequest) -> Appended:
        told: asyncio.Future[Appended | ProtocolError] = asyncio.get_running_loop().create_future()
        self.submit(request, told.set_result)
        outcome = await told
        if isinstance(outcome, ProtocolError):
            raise outcome
        return outcome

    async def stat(self, path: str) -> Stream:
        return Stream(1, path, "application/json", 7, closed=path.endswith("closed"))

    def tell(self) -> None:
        waiting, self.waiting = self.waiting, []
        for request, settle in waiting:
            settle(_outcome(request))


def _outcome(request: AppendRequest) -> Appended | ProtocolError:
    match request.path.rpartition("/")[2]:
        case "missing":
            return StreamNotFound()
        case "closed":
            return StreamClosed(7)
        case "down":
            return Unavailable()
        case "twice":
            return Appended(7, True, False, 1, 5)
        case "cancelled":
            return Appended(8, False, False, 1, 6, cancel_requested=True)
    return Appended(8, False, request.close, 1, 6)


class Transport:
    """Keeps what is written to it."""

    def __init__(self, sock: socket.socket) -> None:
        self.written = b""
        self.closed = self.ended = False
        self.paused = False
        self._sock = sock

    def get_extra_info(self, name: str) -> object:
        return self._sock if name == "socket" else None

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        if not self.closed and not self.ended:
            self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Piece:
    """Bytes that come at once, and what happens then: nothing, "told", "drain" or "lost"."""

    def __init__(self, data: bytes, then: str = "") -> None:
        self.data = data
        self.then = then

    def __repr__(self) -> str:
        short = re.sub(rb"(.)\1{49,}", lambda found: b"<%d %b>" % (len(found[0]), found[1]), self.data)
        return f"Piece({short!r}, {self.then!r})"


@dataclass
class Heard:
    """What there is to be seen of a connection when all is over. `past`: its last request was answered past ASGI."""

    written: bytes
    closed: bool
    ended: bool
    paused: bool
    asked: list[AppendRequest]
    past: bool = field(compare=False)


@dataclass
class Ways:
    """One application, and both ways into it."""

    app: Gateway
    _runner: asyncio.Runner
    _sock: socket.socket

    def talk(self, pieces: list[Piece], *, past_asgi: bool) -> Heard:
        """What a client hears who sends these pieces on one connection, and what the log is asked meanwhile."""
        return self._runner.run(self._talk(pieces, self.app if past_asgi else _by_asgi(self.app)))

    async def _talk(self, pieces: list[Piece], application: Any) -> Heard:
        log = Log()
        for name in ("submit", "append", "stat"):
            setattr(self.app._streams._log, name, getattr(log, name))
        transport = Transport(self._sock)
        connection = _connection(application, self.app)
        connection.connection_made(transport)

        def lose() -> None:
            transport.close()
            connection.connection_lost(None)

        events: dict[str, Callable[[], None]] = {
            "": lambda: None,
            "told": log.tell,
            "drain": connection.shutdown,
            "lost": lose,
        }
        for piece in pieces:
            if not transport.closed:
                connection.data_received(piece.data)
            await _settled()
            events[piece.then]()
            await _settled()
        while log.waiting:
            log.tell()
            await _settled()
        heard = Heard(
            written=re.sub(rb"(x-request-id|retry-after): [0-9a-f]+", rb"\1: by chance", transport.written),
            closed=transport.closed,
            ended=transport.ended,
            paused=transport.paused and not transport.closed,
            asked=log.asked,
            past=isinstance(connection.cycle, Post),
        )
        if connection in connection.connections:
            lose()
        return heard


@contextmanager
def both_ways(**settings: Any) -> Iterator[Ways]:
    """An application that is never started: its log is a stub, and nothing else is asked for.

    A drain ends no connection by the clock here: a busy machine would decide what is heard.
    """
    app = Gateway(Settings(**settings), "postgresql://nowhere/none")
    app.api.now()  # or else the first who needs it waits for a thread
    with asyncio.Runner() as runner, socket.socket() as sock, patch.object(transport, "IDLE_END", 3600.0):
        yield Ways(app, runner, sock)


def _by_asgi(app: Gateway) -> Any:
    async def by_asgi(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return by_asgi


def _connection(application: Any, app: Gateway) -> Any:
    protocol = connections(
        request_timeout=60,
        send_timeout=60,
        max_head=app.settings.max_head,
        max_connections=9,
        common=app.cors.constant,
        bodies=app.bodies,
    )
    config = uvicorn.Config(application, http=protocol, ws="none", access_log=False, log_config=None)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"today")]
    return cast("Any", protocol)(config=config, server_state=state, app_state={})


async def _settled() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)
