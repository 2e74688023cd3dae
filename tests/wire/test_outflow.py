"""Long answers on their way: whole and in order whatever the sockets take, and a bounded number of bytes in a turn."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, ClassVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.http.bodies import Bodies
from gateway.wire import outflow
from gateway.wire.intake import Turns
from gateway.wire.outflow import EACH, FAIR, LARGE, TURN, Outflow
from gateway.wire.transport import DirectProtocol
from tests.http.transports import Wire
from tests.servers import Running, client_of, serving, until

JSON = {"content-type": "application/json"}


class Socket(Wire):
    """A transport as uvloop's, above a socket that has `room` for so many bytes; `got` is what its client has."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.protocol: DirectProtocol
        self.room = room
        self.got = b""
        self.buffer = b""
        self.paused = False
        self.eof = False
        self.gone = False
        self.sends = 0

    def send(self, data: memoryview) -> int:
        """The connection's own way to the socket."""
        assert not self.buffer, "what is buffered must not be overtaken"
        assert not self.eof
        if self.gone:
            raise BrokenPipeError
        if not self.room:
            raise BlockingIOError
        self.sends += 1
        return self._take(data)

    def _take(self, data: bytes | memoryview) -> int:
        taken = min(self.room, len(data))
        self.room -= taken
        self.got += bytes(data[:taken])
        return taken

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.eof
        self.buffer += bytes(data)
        if not self.paused:
            self._flush()
            if self.buffer:
                self.paused = True
                self.protocol.pause_writing()

    def _flush(self) -> None:
        self.buffer = self.buffer[self._take(self.buffer) :]

    def read(self, size: int) -> None:
        """The client reads so much, and the loop sees that there is room."""
        self.room += size
        self._flush()
        if self.paused and not self.buffer and not self.closing:
            self.paused = False
            self.protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def write_eof(self) -> None:
        self.eof = True


class Connection(DirectProtocol):
    __slots__ = ()
    patience = 60
    spare: ClassVar[dict[DirectProtocol, None]] = {}
    arriving = Bodies(1 << 20)
    turns = Turns()
    outflow: ClassVar[Outflow]


OPEN: list[tuple[Connection, Socket]] = []


def connected(room: int) -> tuple[Connection, Socket]:
    transport = Socket(room)
    config = Config(app=lambda: None, lifespan="off", log_config=None, http=Connection)
    config.load()
    connection = Connection(config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop())
    transport.protocol = connection
    connection.connection_made(transport)
    connection.send = transport.send  # type: ignore[assignment]
    OPEN.append((connection, transport))
    return connection, transport


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_all()


def close_all() -> None:
    while OPEN:
        connection, transport = OPEN.pop()
        connection.connection_lost(None)
        transport.close()


SIZES = st.sampled_from((1, 100, LARGE, LARGE + 1, 3 * LARGE, FAIR + 5, 3 * FAIR))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    writes=st.lists(st.lists(SIZES, max_size=4), min_size=1, max_size=5),
    turn=st.sampled_from((1, FAIR, TURN)),
    end=st.sampled_from(("stays", "closes", "half-closes")),
)
def test_everything_arrives_in_order(seed: int, writes: list[list[int]], turn: int, end: str) -> None:
    """However much the sockets take at a time, of several connections that are written to at will."""

    async def play() -> None:
        chance = random.Random(seed)
        Connection.outflow = Outflow(turn)
        both = [connected(chance.choice((0, 1, LARGE, FAIR, 10 * FAIR))) for _ in writes]
        owed = [b""] * len(writes)
        for number in range(4):
            for place, sizes in enumerate(writes):
                if number < len(sizes):
                    data = chance.randbytes(64) * (sizes[number] // 64 + 1)
                    owed[place] += data
                    both[place][0].write(data)
                if chance.random() < 0.5:
                    both[place][1].read(chance.choice((1, LARGE, FAIR)))
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
        for connection, _ in both:
            if end != "stays":
                (connection.close if end == "closes" else connection.linger)()
        for _ in range(120):
            for place, (connection, transport) in enumerate(both):
                transport.read(chance.choice((1, 100, FAIR)))
                if transport.closing or transport.eof:
                    assert transport.got + transport.buffer == owed[place], "it ends behind what was written"
                elif not connection.writable():
                    assert len(transport.got) < len(owed[place]), "nobody waits for nothing"
            await asyncio.sleep(0)
        assert [len(transport.got) for _, transport in both] == [len(data) for data in owed]
        assert [transport.got for _, transport in both] == owed
        assert all(connection.writable() for connection, transport in both if not transport.closing)
        assert all(transport.closing for _, transport in both) == (end == "closes")
        assert all(transport.eof for _, transport in both) == (end == "half-closes")

        close_all()

    asyncio.run(play())


async def test_no_turn_sends_more_than_it_may_however_many_can() -> None:
    """A hundred clients begin to read at the same time."""
    Connection.outflow = Outflow()
    both = [connected(0) for _ in range(100)]
    for connection, _ in both:
        connection.write(bytes(3 * FAIR))
        assert not connection.writable()
    for _, transport in both:
        transport.read(100 * FAIR)
    sent = [sum(len(transport.got) for _, transport in both)]
    while sent[-1] < 300 * FAIR:
        await asyncio.sleep(0)
        sent.append(sum(len(transport.got) for _, transport in both))
    assert max(after - before for before, after in pairwise([0, *sent])) <= TURN + FAIR + 100 * EACH


async def test_what_many_wait_for_is_kept_once() -> None:
    """Whoever has made it, behind whatever head, and however much of it each has been sent."""
    Connection.outflow = Outflow()
    those = [connected(room) for room in (0, 1, LARGE, LARGE + 100, FAIR)]
    text = bytearray(b"x" * 2 * FAIR)
    for number, (connection, _) in enumerate(those):
        made = bytes(text)
        connection.write(b"%d" % number)
        connection.write(made)
        connection.write(made)  # behind what waits
        for _ in range(5):
            await asyncio.sleep(0)
        assert number == 0 or sys.getrefcount(made) == 2, "it is let go of at once"
    waiting: dict[int, int] = {}
    for connection, _ in those:
        connection.weigh(waiting)
    assert sum(waiting.values()) == 2 * FAIR
    for number, (connection, transport) in enumerate(those):
        transport.read(10 * FAIR)
        for _ in range(10):
            await asyncio.sleep(0)
        assert transport.got == b"%d" % number + 2 * text
        assert connection.writable()
    assert not Connection.outflow._kept, "nothing is kept that nobody waits for"


async def test_others_bytes_are_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where their hashes are the same."""
    monkeypatch.setattr(outflow, "hash", lambda _: 1, raising=False)
    Connection.outflow = Outflow()
    those = [connected(0) for _ in range(3)]
    for number, (connection, _) in enumerate(those):
        connection.write(b"%d" % number * FAIR)
    for number, (_, transport) in enumerate(those):
        transport.read(10 * FAIR)
        for _ in range(5):
            await asyncio.sleep(0)
        assert transport.got == b"%d" % number * FAIR


async def test_one_that_fails_ends_alone() -> None:
    Connection.outflow = Outflow()
    broken, well = connected(0), connected(0)
    for connection, _ in (broken, well):
        connection.write(bytes(3 * FAIR))

    def fail(_: Any) -> int:
        raise RuntimeError

    broken[0].send = cast("Any", fail)
    for _, transport in (broken, well):
        transport.read(10 * FAIR)
    for _ in range(10):
        await asyncio.sleep(0)
    assert broken[1].closing
    assert len(well[1].got) == 3 * FAIR
    assert well[0].writable()


@pytest.mark.parametrize("leave", [lambda it: it.connection_lost(None), lambda it: it.abort()], ids=["lost", "aborted"])
async def test_nothing_is_sent_to_one_that_has_gone(leave: Callable[[DirectProtocol], None]) -> None:
    Connection.outflow = Outflow(1)
    connection, transport = connected(5)
    connection.write(bytes(3 * FAIR))
    transport.room = 10 * FAIR
    leave(connection)
    sends = transport.sends
    for _ in range(10):
        await asyncio.sleep(0)
    assert transport.sends == sends
    assert not connection.writable() or connection._rest is None


async def test_who_reads_slowly_is_not_taken_for_one_who_does_not() -> None:
    """What waits for the socket counts: there, and in the system, it may be just as much at every look."""
    Connection.outflow = Outflow()
    connection, transport = connected(0)
    connection.write(bytes(FAIR))
    for now in range(1, 1000, 100):
        assert not connection._takes_nothing(now), "it takes a little every 100 seconds"
        transport.read(len(transport.buffer) + 1)
        await asyncio.sleep(0)
    assert not connection._takes_nothing(1000)
    assert connection._takes_nothing(1000 + 121)


async def test_a_large_event_goes_whole_to_all(database_url: str) -> None:
    """Followers, one who catches up, and one who asks for the page, over real sockets that they read late."""
    event = b'"%b"' % (b"0123456789abcdef" * (6 << 16))  # 6 MiB
    with serving(database_url, "direct", max_event=10 << 20) as gateway:
        async with client_of(gateway) as client:
            await client("PUT", "/runs/large", headers=JSON)
            follow = [await asked(gateway, "?offset=-1&live=sse") for _ in range(5)]
            await until(lambda: gateway.app._hub.followers["following"] == 5)
            for text in (event, b"1"):
                appended = await client("POST", "/runs/large", headers=JSON, content=text)
                assert appended.status_code == 204
            late = [await asked(gateway, query) for query in ("?offset=-1&live=sse", "?offset=-1")]
            await client("POST", "/runs/large", headers={"stream-closed": "true"})
            answers = await asyncio.gather(*map(read, [*follow, *late]))
    assert [answer.count(event) for answer in answers] == [1] * 7
    for answer in answers[:-1]:
        assert answer.index(b"data:[1]" if b"data:[1]" in answer else b",1]") > answer.index(event)
        assert answer.endswith(b'"streamClosed":true}\n\n')


async def asked(gateway: Running, query: str) -> socket.socket:
    """A client with little room for what it does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", gateway.port))
    request = f"GET /runs/large{query} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(client, request.encode())
    return client


async def read(client: socket.socket) -> bytes:
    """The body of the answer; chunks without their framing."""
    loop, answer = asyncio.get_running_loop(), bytearray()
    with client:
        async with asyncio.timeout(60):
            while data := await loop.sock_recv(client, 1 << 20):
                answer += data
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if b"chunked" not in head:
        return body
    whole, at = b"", 0
    while size := int(body[at : body.index(b"\r\n", at)], 16):
        start = body.index(b"\r\n", at) + 2
        whole += body[start : start + size]
        at = start + size + 2
    return whole
