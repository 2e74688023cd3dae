"""What comes for all recordings is read when it is asked for, and rings once before that."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from gateway.relay.asking import Asking
from gateway.relay.reading import MOST, SIZE, TURN, Reading
from tests.servers import PATIENCE

pytestmark = pytest.mark.skipif(not Reading().possible, reason="this system has no epoll")


class Taken:
    """What is read of the connections of a test, by their names."""

    def __init__(self) -> None:
        self.reading = Reading()
        self.read: dict[str, bytes] = {}
        self.ended: list[str] = []
        self.rung = asyncio.Event()
        self.rings = 0
        self.reading.ring = self._ring
        self._sockets: list[socket.socket] = []

    def connection(self, name: str) -> tuple[socket.socket, socket.socket]:
        """The two ends of one that is read."""
        here, there = socket.socketpair()
        here.setblocking(False)
        self._sockets += (here, there)
        self.reading.add(here.fileno(), partial(self.take, name))
        return here, there

    def take(self, name: str, data: bytes, error: OSError | None) -> None:
        if data:
            self.read[name] = self.read.get(name, b"") + data
        else:
            self.ended.append(name)
            self.reading.remove(self._sockets[0].fileno())

    async def rang(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.rung.wait()
        self.rung.clear()

    def close(self) -> None:
        self.reading.close()
        for each in self._sockets:
            each.close()

    def _ring(self) -> None:
        self.rings += 1
        self.rung.set()


@pytest.fixture
async def taken() -> AsyncIterator[Taken]:
    taken = Taken()
    yield taken
    taken.close()


async def test_what_comes_rings_once_and_is_read_when_asked(taken: Taken) -> None:
    _, one = taken.connection("one")
    _, other = taken.connection("other")
    one.send(b"a")
    await taken.rang()
    one.send(b"b")
    other.send(b"c")
    await asyncio.sleep(0)
    assert not taken.read
    taken.reading.read()
    assert taken.read == {"one": b"ab", "other": b"c"}
    assert taken.rings == 1


async def test_what_has_come_before_the_watch_rings_too(taken: Taken) -> None:
    _, one = taken.connection("one")
    one.send(b"a")
    await taken.rang()
    taken.reading.watch()
    await taken.rang()
    taken.reading.read()
    assert taken.read == {"one": b"a"}


async def test_an_end_is_given_out(taken: Taken) -> None:
    _, one = taken.connection("one")
    one.close()
    await taken.rang()
    taken.reading.read()
    assert taken.ended == ["one"]


async def test_one_that_is_removed_is_read_no_more(taken: Taken) -> None:
    here, one = taken.connection("one")
    one.send(b"a")
    taken.reading.remove(here.fileno())
    taken.reading.read()
    assert not taken.read


async def test_one_whose_bytes_cannot_be_taken_keeps_no_other(taken: Taken, caplog: pytest.LogCaptureFixture) -> None:
    here, broken = socket.socketpair()
    here.setblocking(False)
    with here, broken:
        taken.reading.add(here.fileno(), lambda data, error: data.unknown)  # type: ignore[attr-defined]
        _, one = taken.connection("one")
        broken.send(b"a")
        one.send(b"b")
        taken.reading.read()
        taken.reading.read()
    assert taken.read == {"one": b"b"}
    assert caplog.text.count("could not be recorded") == 1


async def test_many_are_read_in_turns(taken: Taken) -> None:
    for n in range(MOST + 1):
        taken.connection(f"{n}")[1].send(b"a")
    assert not taken.reading.read()
    assert len(taken.read) == MOST
    assert taken.reading.read()
    assert len(taken.read) == MOST + 1


async def test_floods_are_read_in_turns_that_go_round(taken: Taken) -> None:
    flood = bytes(3 * TURN)
    for n in range(5):
        _, there = taken.connection(f"{n}")
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(flood))
        there.setblocking(False)
        there.send(flood)
    read = 0
    for turn in range(1, 5):
        assert not taken.reading.read(), "there is more"
        assert sum(map(len, taken.read.values())) - read <= TURN
        read = sum(map(len, taken.read.values()))
        assert len(taken.read) >= min(5, 3 * turn), "whoever comes first does not keep the others waiting"
    while not taken.reading.read():
        pass
    assert sum(map(len, taken.read.values())) > read


class Heard:
    """Listens to an answer."""

    def __init__(self) -> None:
        self.body = b""
        self.over: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def data(self, data: bytes) -> None:
        self.body += data

    def ended(self, fault: str | None) -> None:
        self.over.set_result(fault)


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"


@asynccontextmanager
async def answering(data: bytes) -> AsyncIterator[str]:
    """The address of a server that writes this to whoever asks."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def hear(url: str) -> tuple[Heard, str | None]:
    """An answer that is read together with others from its head on."""
    reading, heard = Reading(), Heard()
    rung = asyncio.Event()
    reading.ring = rung.set
    answer = await Asking(url)("POST", b"/", [(b"host", b"x")], b"")
    answer.read_with(reading)
    answer.listen(heard)
    try:
        async with asyncio.timeout(PATIENCE):
            while not heard.over.done():
                reading.watch()
                await rung.wait()
                rung.clear()
                reading.read()
        return heard, heard.over.result()
    finally:
        reading.close()


BODIES = [b"", b"data: 1\n\n", bytes(range(256)) * (5 * SIZE // 256)]


@pytest.mark.parametrize("body", BODIES, ids=len)
async def test_an_answer_that_is_read_with_others_is_whole(body: bytes) -> None:
    async with answering(HEAD % len(body) + body) as url:
        heard, fault = await hear(url)
    assert fault is None
    assert heard.body == body


async def test_an_answer_that_is_cut_while_it_is_read_so_is_lost() -> None:
    async with answering(HEAD % 100 + b"data: 1\n\n") as url:
        heard, fault = await hear(url)
    assert fault == "the upstream's connection was cut"
    assert heard.body == b"data: 1\n\n"
