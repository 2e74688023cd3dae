"""However requests are cut into packets, and whatever stands behind them: each is had once, whole and in its turn."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import ClassVar

from hypothesis import given
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.asgi import Receive, Scope, Send
from gateway.auth.principal import NOBODY, Principal
from gateway.http.bodies import Bodies
from gateway.http.cors import Cors
from gateway.http.fast_append import Post, PostProtocol
from gateway.protocol.errors import ProtocolError
from gateway.wire.intake import LINES, SLICE, Turns
from gateway.wire.transport import DirectProtocol
from tests.http.transports import Wire

POST = b"POST /runs/%d HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\n"
LENGTH = POST + b"Content-Length: 9\r\n\r\n\r\n\r\n\r\nGET"
KINDS = {
    "plain": LENGTH,
    "empty": POST + b"\r\n",
    "chunked": POST + b"Transfer-Encoding: chunked\r\n\r\n9\r\n\r\n\r\n\r\nGET\r\n0\r\n\r\n",
    "trailers": POST + b"Transfer-Encoding: chunked\r\n\r\n9\r\n\r\n\r\n\r\nGET\r\n0\r\nx: POST \r\n\r\n",
    "upgrade": LENGTH.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost"),
    "kept": LENGTH.replace(b"Host", b"Connection: keep-alive\r\nHost"),
    "query": LENGTH.replace(b" HTTP", b"?a HTTP"),
    "declined": LENGTH.replace(b"Host", b"Declined: 1\r\nHost"),
    "get": b"GET /runs/%d HTTP/1.1\r\nHost: h\r\n\r\n",
    "blank line": b"\r\n" + LENGTH,
}


PAST_ASGI = ("plain", "empty", "kept", "blank line")


class Connection(PostProtocol):
    __slots__ = ()
    patience = 60
    spare: ClassVar[dict[DirectProtocol, None]] = {}
    arriving = Bodies(1 << 20)
    turns: ClassVar[Turns]

    def refusal(self, error: ProtocolError, scope: Scope | None = None) -> tuple[int, bytes, bytes]:
        return error.status, b"", error.type.encode()


class Application:
    """Answers over ASGI, and past it, which it may do `at_once`. Knows the path and the body of all that it `had`."""

    def __init__(self, at_once: bool) -> None:
        self.had: list[tuple[str, bytes]] = []
        self.door = self
        self.cors = Cors(())
        self.past_asgi = 0
        self._at_once = at_once
        self.open = 0

    def admit(self, *_: object, **__: object) -> Principal:
        return NOBODY

    def take(self, post: Post) -> bool:
        if b"declined" in post.headers:
            return False
        self.past_asgi += 1
        self._begin(post.url.decode(), post.body)
        if self._at_once:
            self._answer(post)
        else:
            asyncio.get_running_loop().call_soon(self._answer, post)
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            body += message["body"]
            more = message["more_body"]
        self._begin(scope["path"], body)
        await asyncio.sleep(0)
        self.open -= 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def _begin(self, path: str, body: bytes) -> None:
        assert not self.open, "one at a time"
        self.open += 1
        self.had.append((path, body))

    def _answer(self, post: Post) -> None:
        self.open -= 1
        post.answer(204, [])


async def had(packets: list[bytes], *, at_once: bool, pause: bool) -> tuple[Application, Wire]:
    application, wire = Application(at_once), Wire()
    Connection.turns = Turns()
    config = Config(app=application, lifespan="off", log_config=None, http=Connection)
    config.load()
    config.app = application
    connection = Connection(config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop())
    connection.connection_made(wire)
    for packet in packets:
        connection.data_received(packet)
        if pause:
            await asyncio.sleep(0)
    for _ in range(200):
        await asyncio.sleep(0)
    connection.connection_lost(None)
    return application, wire


@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4),
    cuts=st.sets(st.integers(1, 600), max_size=6),
    at_once=st.booleans(),
    pause=st.booleans(),
    rubbish=st.booleans(),
)
def test_each_request_is_had_once_however_it_is_cut(
    kinds: list[str], cuts: set[int], at_once: bool, pause: bool, rubbish: bool
) -> None:
    sent = b"".join([KINDS[kind] % number for number, kind in enumerate(kinds)]) + b"{rubbish}\r\n\r\n" * rubbish
    places = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    packets = [sent[at:to] for at, to in pairwise(places)]
    application, wire = asyncio.run(had(packets, at_once=at_once, pause=pause))
    bodies = [b"" if kind in ("get", "empty") else b"\r\n\r\n\r\nGET" for kind in kinds]
    assert application.had == [(f"/runs/{number}", body) for number, body in enumerate(bodies)]
    statuses = [answer[:3] for answer in wire.written.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"204"] * len(kinds) + [b"400"] * rubbish
    assert application.past_asgi == sum(kind in PAST_ASGI for kind in kinds)
    assert Connection.arriving.held == 0


async def test_no_turn_of_the_loop_parses_many_chunks() -> None:
    """Counted, not timed: whatever comes at once, on however many connections."""
    had: list[bytes] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            more = message["more_body"]
            body += message["body"]
        had.append(body)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    config = Config(app=application, lifespan="off", log_config=None, http=Connection)
    config.load()
    loop = asyncio.get_running_loop()
    Connection.turns = Turns()
    turn, chunks = 0, Counter[int]()

    class Counting(Connection):
        __slots__ = ()

        def on_body(self, body: bytes) -> None:
            chunks[turn] += 1
            super().on_body(body)

    connections = [Counting(config, ServerState(), {}, _loop=loop) for _ in range(20)]
    wires = [Wire() for _ in connections]
    head = POST % 1 + b"Transfer-Encoding: chunked\r\n\r\n"
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_made(wire)
        connection.data_received(head + b"1\r\na\r\n" * 5_000)
        connection.data_received(b"1\r\na\r\n" * 5_000 + b"0\r\n\r\n")
    assert sum(chunks.values()) == 0, "none of them at once, as many may come in one turn"
    async with asyncio.timeout(60):
        while not all(wire.written for wire in wires):
            turn += 1
            await asyncio.sleep(0)
    assert had == [b"a" * 10_000] * 20
    assert max(chunks.values()) <= (LINES + SLICE) // 2
    for connection in connections:
        connection.connection_lost(None)
    assert Connection.arriving.held == 0
