"""One rude reader among many: all others get every event, and every append is answered by what became of it.

Each row is a way to half-end a connection while its request is being answered, over real sockets.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from gateway.fanout.broadcast import MANY
from gateway.protocol.batch import News
from tests.event_source import read
from tests.servers import Running, body_of, serving, until

JSON = {"content-type": "application/json"}
CHUNKED = b"Transfer-Encoding: chunked\r\n"
EVENTS = 4


def get(run: str, headers: bytes = b"", body: bytes = b"") -> bytes:
    return b"GET /runs/%b?offset=-1&live=sse HTTP/1.1\r\nHost: h\r\n%b\r\n%b" % (run.encode(), headers, body)


class Rude:
    """A client that knows no manners: it sends what it is told to, and reads nothing. `target`: what it asks for."""

    def __init__(self, sock: socket.socket, target: str) -> None:
        self._sock = sock
        self._target = target.encode()

    async def send(self, data: bytes) -> None:
        data = re.sub(rb"(?<=^GET )/runs/\S+sse", self._target, data)
        await asyncio.get_running_loop().sock_sendall(self._sock, data)

    def half_close(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def stop_reading(self) -> None:
        self._sock.shutdown(socket.SHUT_RD)

    def reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def close(self) -> None:
        self._sock.close()


Way = Callable[[Rude, str], Awaitable[None]]
TARGETS = (
    "/RUN?offset=-1&live=sse",
    "/RUN?offset=-1&live=sse&fold=type:text",
    "/RUN?offset=-1&live=sse&named=false",
    "/RUN?offset=now&live=long-poll",
    "/RUN?meta&wait=60",
    "/v1/stream?live=sse&stream=RUN",
    "/runs?live=sse",
)


def sends(headers: bytes = b"", body: bytes = b"", then: Callable[[Rude], None] | None = None) -> Way:
    """One packet with a GET and what comes behind it; and then something that is done to the socket."""

    async def way(rude: Rude, run: str) -> None:
        await rude.send(get(run, headers, body))
        if then is not None:
            then(rude)

    return way


def in_two(headers: bytes, body: bytes, rest: bytes) -> Way:
    """What is wrong comes a moment after the request, when it is being answered."""

    async def way(rude: Rude, run: str) -> None:
        await rude.send(get(run, headers, body))
        for _ in range(20):
            await asyncio.sleep(0)
        await rude.send(rest)

    return way


WAYS: dict[str, Way] = {
    "a chunk without a size": sends(CHUNKED, b"ZZZ\r\n"),
    "a chunk without a size, later": in_two(CHUNKED, b"", b"ZZZ\r\n"),
    "a chunk that is too long": sends(CHUNKED, b"2\r\nabcdef\r\n"),
    "a bad second chunk": in_two(CHUNKED, b"1\r\na\r\n", b"ZZZ\r\n"),
    "a bad trailer": sends(CHUNKED, b"0\r\nX y\r\n\r\n"),
    "trailers without end": sends(CHUNKED, b"0\r\n" + b"X: aaaaaa\r\n" * 20_000),
    "a chunk's extension without end": sends(CHUNKED, b"3;" + b"a" * 200_000),
    "a body that does not come": sends(b"Content-Length: 10\r\n", b"abc"),
    "a chunk that does not come": sends(CHUNKED, b"a\r\nabc"),
    "an end after half a body": sends(b"Content-Length: 10\r\n", b"abc", then=Rude.half_close),
    "rubbish behind the request": sends(b"", b"\0\0\0\r\n\r\n"),
    "rubbish behind the request, later": in_two(b"", b"", b"\0\0\0\r\n\r\n"),
    "half a request behind the request": sends(b"", b"GET /runs/x HTTP/1.1\r\nHo"),
    "a head too large behind the request": sends(b"", b"GET /x HTTP/1.1\r\nX: " + b"a" * 200_000),
    "a request without a host behind the request": sends(b"", b"GET /runs/x HTTP/1.1\r\n\r\n"),
    "an end behind the request": sends(then=Rude.half_close),
    "an end of reading": sends(then=Rude.stop_reading),
    "a reset": sends(then=Rude.reset),
    "a close": sends(then=Rude.close),
    "an upgrade and rubbish": sends(b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"\0\0\0"),
    "no host": lambda rude, run: rude.send(get(run).replace(b"Host: h\r\n", b"")),
}


@pytest.fixture(scope="module", params=[True, False], ids=["io_uring", "one by one"])
def gateway(database_of_all: str, request: pytest.FixtureRequest) -> Iterator[Running]:
    with serving(database_of_all, "direct", request_timeout=1, io_uring=request.param) as running:
        yield running


class Others:
    """Those who follow a run and do nothing wrong, and the run's producer."""

    def __init__(self, gateway: Running, run: str) -> None:
        self.gateway = gateway
        self.run = run
        self._readers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def come(self, count: int) -> None:
        before = len(self._readers)
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.port)
            writer.write(get(self.run, b"Connection: close\r\n"))
            self._readers.append((reader, writer))
        await until(lambda: self._following() >= before + count)

    def _following(self) -> int:
        tail = self.gateway.app._hub.tails.get(f"runs/{self.run}")
        return len(tail.direct) if tail is not None else 0

    async def given(self) -> list[list[object]]:
        """What each was given, once its response has ended."""
        async with asyncio.timeout(60):
            bodies = [body_of(await reader.read()) for reader, _ in self._readers]
        for _, writer in self._readers:
            writer.close()
        return [
            [event for each in read(body).events if each.type == "data" for event in json.loads(each.data)]
            for body in bodies
        ]


async def of_many(gateway: Running, run: str) -> Callable[[], Awaitable[list[object]]]:
    """One who follows the run as one of many streams. What was given is told when the run has ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"GET /v1/stream?live=sse&stream=runs/%b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % run.encode()
    )
    await until(lambda: f"runs/{run}" in gateway.app._hub.tails)

    async def given() -> list[object]:
        async with asyncio.timeout(60):
            body = body_of(await reader.read())
        writer.close()
        parts = [part for each in read(body).events for part in json.loads(each.data)]
        return [event for part in parts for event in part.get("events", ())]

    return given


async def goes_well(gateway: Running, run: str, rudely: Callable[[], Awaitable[None]], many: int) -> None:
    """Readers come before and after somebody is rude; all of them get what is appended from then on."""
    async with httpx.AsyncClient(base_url=gateway.url, headers=JSON) as http:
        (await http.put(f"/runs/{run}")).raise_for_status()
        others, another = Others(gateway, run), await of_many(gateway, run)
        await others.come(many)
        await rudely()
        await others.come(many)
        statuses = [(await http.post(f"/runs/{run}", json=[n])).status_code for n in range(EVENTS)]
        statuses.append((await http.post(f"/runs/{run}", headers={"stream-closed": "true"})).status_code)
        log = (await http.get(f"/runs/{run}")).json()
    assert statuses == [204] * (EVENTS + 1)
    assert log == list(range(EVENTS))
    assert await others.given() == [log] * (2 * many)
    assert await another() == log


@pytest.mark.parametrize("name", WAYS)
async def test_a_rude_reader_costs_no_other_reader_an_event(gateway: Running, name: str) -> None:
    run = name.replace(" ", "-").replace(",", "") + str(gateway.port)
    with ExitStack() as stack:

        async def rudely() -> None:
            for target in TARGETS:
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
                sock.setblocking(False)
                with suppress(OSError):  # the gateway may have ended it already
                    await WAYS[name](Rude(sock, target.replace("RUN", f"runs/{run}")), run)

        await goes_well(gateway, run, rudely, many=2 if name != "a chunk without a size" else MANY)


@pytest.mark.parametrize("place", range(4))
async def test_no_subscriber_of_commits_takes_an_event_from_a_reader(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Readers themselves are one of them; when telling them fails, the sweep gives them what they have missed."""
    committed, watch = gateway.app._feed.committed, gateway.app._subscriptions._watch
    watch.begins()  # as with the first subscription
    channels = (committed, committed.turns)
    places = [(channel, number) for channel in channels for number in range(len(channel._subscribers))]
    told: list[str] = []

    def fail(news: News) -> None:
        told.append(news.path)
        raise RuntimeError("a subscriber's fault")

    async def rudely() -> None:
        channel, number = places[place]
        subscribers = list(channel._subscribers)
        subscribers[number] = fail
        monkeypatch.setattr(channel, "_subscribers", tuple(subscribers))

    assert len(places) == 4, "each of them is one of the cases"
    if place == 0:
        monkeypatch.setattr(gateway.app._hub, "_sweep_interval", lambda: 0.05)
        gateway.app._hub.look_again()
    await goes_well(gateway, f"subscriber-{place}-{gateway.port}", rudely, many=2)
    assert set(told) == {f"runs/subscriber-{place}-{gateway.port}"}
    monkeypatch.undo()
    watch.ends()


@pytest.mark.parametrize("what", ["published", "delivery_seconds"])
async def test_no_counter_or_trace_can_take_an_event_from_a_reader(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("it cannot be counted")

    async def rudely() -> None:
        hub = gateway.app._hub
        if what == "published":
            monkeypatch.setattr(hub, "published", fail)
        else:
            monkeypatch.setattr(hub, "delivery_seconds", None)

    await goes_well(gateway, f"counter-{what}-{gateway.port}", rudely, many=2)
