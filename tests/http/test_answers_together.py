"""Answers of one commit go out in one system call: each client hears what it would have heard, in its order."""

from __future__ import annotations

import asyncio
import os
import socket
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.asgi import Receive, Scope, Send
from gateway.auth.principal import NOBODY, Principal
from gateway.fanout.broadcast import Broadcast
from gateway.fanout.uring import BrokenOff
from gateway.http.bodies import Bodies
from gateway.http.cors import Cors
from gateway.http.fast_append import ALONE, Answers, Post, PostProtocol
from gateway.wire.intake import Turns
from gateway.wire.transport import DirectProtocol
from tests.servers import until

POST = b"POST /runs/a HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n"
CLOSING = POST.replace(b"Host", b"Connection: close\r\nHost")
CLIENTS = 5


class Sends:
    """In the place of io_uring. The socket at the place `short` takes five bytes; from `broken` on, nobody knows."""

    def __init__(self, short: int | None = None, broken: int | None = None) -> None:
        self.calls: list[int] = []
        self._short = short
        self._broken = broken

    def send(self, fds: array[int], data: bytes) -> dict[int, int]:
        raise AssertionError("there are no readers")

    def send_each(self, fds: array[int], frames: Sequence[bytes]) -> dict[int, int]:
        self.calls.append(len(fds))
        if self._broken is not None:
            raise BrokenOff({}, 0, self._broken)
        for place, (fd, frame) in enumerate(zip(fds, frames, strict=True)):
            os.write(fd, frame[:5] if place == self._short else frame)
        return {} if self._short is None else {self._short: 5}

    def close(self) -> None: ...


class Application:
    """Keeps the POSTs that it takes until it is told to answer."""

    def __init__(self) -> None:
        self.door = self
        self.cors = Cors(())
        self.posts: list[Post] = []

    def admit(self, *_: object, **__: object) -> Principal:
        return NOBODY

    def has(self, count: int) -> bool:
        return len(self.posts) == count

    def take(self, post: Post) -> bool:
        self.posts.append(post)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("all come past ASGI")


@asynccontextmanager
async def clients(answers: Answers, *sent: bytes) -> AsyncIterator[tuple[Application, list[Any]]]:
    """An application to which each client has sent a POST, and the clients' ends."""

    class Connection(PostProtocol):
        __slots__ = ()
        spare: ClassVar[dict[DirectProtocol, None]] = {}
        arriving = Bodies(1 << 20)
        turns: ClassVar[Turns] = Turns()

    Connection.answers = answers
    loop, application, state = asyncio.get_running_loop(), Application(), ServerState()
    state.default_headers = [(b"date", b"today")]
    config = Config(app=application, lifespan="off", log_config=None, http=Connection)
    config.load()
    config.app = application
    theirs = []
    for number, request in enumerate(sent, 1):
        our, their = socket.socketpair()
        their.setblocking(False)
        await loop.connect_accepted_socket(lambda: Connection(config, state, {}), our)
        theirs.append(their)
        their.send(request + b"x")
        await until(partial(application.has, number))
    try:
        yield application, theirs
    finally:
        for their in theirs:
            their.close()
        await until(lambda: not state.connections)


async def heard(their: socket.socket) -> bytes:
    """What a client hears within the next turns of the loop; behind it END, if nothing comes any more."""
    found = b""
    for _ in range(20):
        await asyncio.sleep(0)
        try:
            part = their.recv(1 << 16)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            return found + b"RESET"
        if not part:
            return found + b"END"
        found += part
    return found


async def said(answers: Answers, together: Any, *sent: bytes) -> list[bytes]:
    async with clients(answers, *sent) as (application, theirs):
        with together():
            for post in application.posts:
                post.accepted(b"0_7")
                post.accepted(b"0_8")  # a second one is none
        return [await heard(their) for their in theirs]


async def alone(*sent: bytes) -> list[bytes]:
    return await said(ALONE, Broadcast().together, *sent)


async def test_all_are_sent_in_one_call_and_say_what_each_would() -> None:
    sends = Sends()
    broadcast = Broadcast(sends, many=2)
    found = await said(broadcast, broadcast.together, *[POST] * CLIENTS)
    assert found == await alone(*[POST] * CLIENTS)
    assert found[0].startswith(b"HTTP/1.1 204 No Content\r\ndate: today\r\nstream-next-offset: 0_7\r\n")
    assert sends.calls == [CLIENTS]


async def test_a_client_with_a_full_socket_hears_the_rest() -> None:
    broadcast = Broadcast(Sends(short=2), many=2)
    assert await said(broadcast, broadcast.together, *[POST] * CLIENTS) == await alone(*[POST] * CLIENTS)


async def test_a_connection_that_ends_with_its_answer_is_sent_it_first() -> None:
    sends = Sends()
    broadcast = Broadcast(sends, many=2)
    found = await said(broadcast, broadcast.together, POST, CLOSING, POST)
    assert found == await alone(POST, CLOSING, POST)
    assert found[1].endswith(b"connection: close\r\n\r\nEND")
    assert sends.calls == [2]


async def test_a_connection_that_a_drain_ends_is_sent_its_answer_first() -> None:
    sends = Sends()
    broadcast = Broadcast(sends, many=2)
    async with clients(broadcast, *[POST] * CLIENTS) as (application, theirs):
        drained: Any = application.posts[1]._connection
        drained.shutdown()
        with broadcast.together():
            for post in application.posts:
                post.accepted(b"0_7")
        assert sends.calls == [CLIENTS - 1]
        assert (await heard(theirs[1])).endswith(b"connection: close\r\n\r\nEND")


async def test_a_call_that_breaks_off_ends_whose_answer_is_unknown() -> None:
    """They come again: an append whose answer is lost is one whose outcome is unknown."""
    broadcast = Broadcast(Sends(broken=3), many=2)
    found = await said(broadcast, broadcast.together, *[POST] * CLIENTS)
    assert found[:3] == [b"END"] * 3
    assert found[3:] == await alone(POST, POST)


@pytest.mark.parametrize("answers", [ALONE, Broadcast(), Broadcast(Sends(), many=2)])
async def test_outside_of_a_block_an_answer_is_sent_at_once(answers: Answers) -> None:
    async with clients(answers, POST) as (application, (their,)):
        application.posts[0].accepted(b"0_7")
        assert their.recv(1 << 16).startswith(b"HTTP/1.1 204 ")


async def test_the_next_request_is_answered_behind_the_first() -> None:
    broadcast = Broadcast(Sends(short=0), many=1)
    async with clients(broadcast, POST) as (application, (their,)):
        their.send(POST + b"x")
        await asyncio.sleep(0.0)
        with broadcast.together():
            application.posts[0].accepted(b"0_7")
        await until(lambda: len(application.posts) == 2)
        with broadcast.together():
            application.posts[1].accepted(b"0_8")
        found = await heard(their)
    assert [line for line in found.split(b"\r\n") if b"offset" in line] == [
        b"stream-next-offset: 0_7", b"stream-next-offset: 0_8",
    ]  # fmt: skip
