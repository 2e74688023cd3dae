"""The worst that one client can ask for, each as bad as the limits allow: what `loadtests.probes.turns` measures."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import httpx

from gateway.process.machine import Machine

JSON: Final = {"content-type": "application/json"}
TEXT: Final = {"content-type": "text/plain"}
BYTES: Final = {"content-type": "application/octet-stream"}
SETTINGS: Final = {
    "GATEWAY_MAX_READERS": "10000",
    "GATEWAY_SSE_MAX_AGE": "3600",
    "GATEWAY_LONG_POLL_TIMEOUT": "300",
    "GATEWAY_MAX_SUBSCRIPTION_CHANGES": "1000000",
    "GATEWAY_SEND_TIMEOUT": "600",
    "LOG_LEVEL": "warning",
}
MIB: Final = 1 << 20
AT_ONCE: Final = 100  # connections that are being opened
CROWD: Final = 1_500
PATIENCE: Final = 120.0

Act = Callable[[], Awaitable[None]]


class Reader(asyncio.Protocol):
    """Reads and forgets; `got` is set when `wanted` bytes have come, or the other side has ended."""

    def __init__(self, request: bytes) -> None:
        self.size = 0
        self.tail = b""
        self.begun = asyncio.get_running_loop().create_future()
        self._request = request
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.size += len(data)
        self.tail = data[-32:]
        if not self.begun.done():
            self.begun.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.size += 1
        if not self.begun.done():
            self.begun.set_result(None)


class House:
    """One Machine, and what asks it. `dsn`: of its database."""

    def __init__(self, machine: Machine, dsn: str) -> None:
        self.machine = machine
        self.dsn = dsn
        self.http = httpx.AsyncClient(base_url=machine.url, timeout=PATIENCE, limits=httpx.Limits(max_connections=None))

    async def close(self) -> None:
        await self.http.aclose()

    async def made(self, type: dict[str, str] = JSON, content: bytes = b"") -> str:
        path = f"/runs/{uuid4().hex}"
        answer = await self.http.put(path, headers=type, content=content)
        assert answer.status_code == 201, answer.text
        return path

    async def post(self, path: str, content: bytes, type: dict[str, str] = JSON) -> int:
        answer = await self.http.post(path, headers=type, content=content)
        return answer.status_code

    async def get(self, path: str, **headers: str) -> int:
        size = 0
        async with self.http.stream("GET", path, headers=headers) as answer:
            async for piece in answer.aiter_raw():
                size += len(piece)
        return size

    @asynccontextmanager
    async def readers(
        self, paths: list[str], query: str = "?offset=-1&live=sse", version: str = "1.1", *, begun: bool = True
    ) -> AsyncIterator[list[Reader]]:
        gate, loop = asyncio.Semaphore(AT_ONCE), asyncio.get_running_loop()
        readers: list[Reader] = []

        async def open(path: str) -> None:
            async with gate:
                request = f"GET {path}{query} HTTP/{version}\r\nhost: h\r\n\r\n".encode()
                _, reader = await loop.create_connection(lambda: Reader(request), "127.0.0.1", self.machine.port)
                readers.append(reader)
                if begun:
                    await reader.begun

        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*map(open, paths))
            yield readers
        finally:
            for reader in readers:
                assert reader.transport is not None
                reader.transport.abort()


async def quiet(readers: list[Reader], more: int = 1) -> None:
    """Waits until each has been sent something, and nothing comes any more."""
    before = [reader.size for reader in readers]
    last = -1
    async with asyncio.timeout(PATIENCE):
        while True:
            await asyncio.sleep(0.3)
            now = sum(reader.size for reader in readers)
            all_had = all(reader.size >= size + more for reader, size in zip(readers, before, strict=True))
            if all_had and now == last:
                return
            last = now


@dataclass(frozen=True)
class Case:
    """What is measured is what `prepared` gives; the rest of it is not."""

    name: str
    prepared: Callable[[House], AbstractAsyncContextManager[Act]]


CASES: list[Case] = []


def case(name: str) -> Callable[[Callable[[House], AsyncIterator[Act]]], None]:
    def add(prepared: Callable[[House], AsyncIterator[Act]]) -> None:
        CASES.append(Case(name, asynccontextmanager(prepared)))

    return add


# Bodies


def _bodies() -> Iterator[tuple[str, bytes]]:
    def array(item: bytes, size: int, last: bytes = b"") -> bytes:
        items = [item] * ((size - 2 - len(last)) // (len(item) + 1))
        return b"[%b]" % b",".join([*items, last] if last else items)

    half = rb'"\ud83d"'
    for size, words in ((32_000, "32 kB"), (64 << 10, "64 KiB"), (10 * MIB, "10 MiB")):
        yield f"json {words}: numbers", array(b"1", size)
        yield f"json {words}: floats", array(b"1.5e3", size)
        yield f"json {words}: numbers and half an emoji", array(b"1", size, half)
        yield f"json {words}: floats and half an emoji", array(b"1.5e3", size, half)
        yield f"json {words}: numbers inside, and half an emoji", b"[[%b,%b]]" % (array(b"1", size - 20)[1:-1], half)
        yield f"json {words}: objects", array(b"{}", size)
        yield f"json {words}: objects with a fault at the end", array(b'{"a":1}', size, b"NaN")
        yield f"json {words}: arrays in arrays", array(b"[[[[]]]]", size)
        yield f"json {words}: nested 1,000 deep, again and again", array(b"[" * 1_000 + b"]" * 1_000, size)
        yield f"json {words}: nested and half an emoji", array(b"[" * 1_000 + b"]" * 1_000, size, half)
        yield f"json {words}: nested for ever", b"[" * size
        yield f"json {words}: objects in objects", b'{"a":' * (size // 5)
        yield f"json {words}: one string", b'"%b"' % (b"a" * (size - 2))
        yield f"json {words}: one string of escapes", b'"%b"' % (rb"\n" * (size // 2 - 2))
        yield f"json {words}: one string of escaped characters", b'"%b"' % (rb"\u00e9" * (size // 6 - 2))
        yield f"json {words}: one string of half emojis", b'"%b"' % (rb"\ud83d" * (size // 6 - 2))
        yield f"json {words}: strings of half emojis", array(half, size)
        yield f"json {words}: long names inside one another", _inside(size)
        yield f"json {words}: one name", b'{"%b":1}' % (b"a" * (size - 6))
        yield f"json {words}: names", b"{%b}" % b",".join(b'"%d":1' % n for n in range(size // 10))
        yield f"json {words}: space", b"[%b]" % (b" " * (size - 2))
        yield f"json {words}: line breaks", b"[1%b,2]" % (b"\n" * (size - 6))
        yield f"json {words}: line breaks between numbers", b"[" + b"1\n,\n" * (size // 4 - 1) + b"1]"
        yield f"json {words}: digits", b"[%b]" % (b"9" * (size - 2))
        yield f"json {words}: commas", b"[%b]" % (b"," * (size - 2))
        yield f"json {words}: quotes", b"[%b]" % (b'"' * (size - 2))
        yield f"json {words}: quotes and commas", b"[%b]" % (b'",' * (size // 2 - 2))
        yield f"json {words}: brackets that open and close", b"[]" * (size // 2)
        yield f"json {words}: no UTF-8", array(b'"\xff"', size)
        yield f"json {words}: characters of four bytes", array('"😀"'.encode(), size)


def _inside(size: int) -> bytes:
    name = b"a" * min(15_000, size // 4)
    depth = size // (len(name) + 5)
    return b'{"%b":' % name * depth + b"1" + b"}" * depth


def _case_of_body(name: str, body: bytes, method: str, place: str) -> None:
    @case(f"{name} ({method} {place})")
    async def _(house: House) -> AsyncIterator[Act]:
        path = place if place == "/runs" else await house.made()

        async def act() -> None:
            for _ in range(2):
                target = path if place == "/runs" or method == "POST" else f"{path}-{uuid4().hex}"
                answer = await house.http.request(method, target, headers=JSON, content=body)
                assert answer.status_code < 500, answer.text

        yield act


for _name, _body in _bodies():
    _case_of_body(_name, _body, "POST", "/runs/R")
for _name, _body in _bodies():
    if "10 MiB" in _name:
        _case_of_body(_name, _body, "PUT", "/runs/R")
for _name, _body in _bodies():
    if "64 KiB" in _name:
        _case_of_body(_name, _body, "POST", "/runs")
for _name, _input in (
    ("arrays in arrays", b"[" + b"[[[[]]]]," * 110_000 + b"1]"),
    ("numbers", b"[" + b"1," * 500_000 + b"1]"),
    ("half emojis", b'["%b"]' % (rb"\ud83d" * 170_000)),
):
    _case_of_body(f"a run with an input of 1 MB: {_name}", b'{"input":%b}' % _input, "POST", "/runs")


# Events, to readers

EVENTS: Final = {
    "text: 1 MiB of line breaks": (TEXT, b"\n" * MIB),
    "text: 1 MiB of CR LF": (TEXT, b"\r\n" * (MIB // 2)),
    "text: 1 MiB of spaces behind line breaks": (TEXT, b"\n " * (MIB // 2)),
    "text: 1 MiB of characters of four bytes": (TEXT, "😀".encode() * (MIB // 4)),
    "text: 1 MiB of no UTF-8": (TEXT, b"\xf0" * MIB),
    "bytes: 1 MiB": (BYTES, os.urandom(MIB)),
    "json: an event of 1 MiB": (JSON, b'"%b"' % (b"a" * (MIB - 2))),
    "json: 20,000 events of 50 bytes": (JSON, b"[%b]" % b",".join(b'"%048d"' % n for n in range(20_000))),
    "json: 20,000 events of a byte": (JSON, b"[%b]" % b",".join([b"1"] * 20_000)),
    "json: 5,000 events of 200 bytes": (JSON, b"[%b]" % b",".join(b'"%0198d"' % n for n in range(5_000))),
}


def _case_live(name: str, count: int) -> None:
    @case(f"{name}, to {count:,} readers by SSE")
    async def _(house: House) -> AsyncIterator[Act]:
        type, body = EVENTS[name]
        path = await house.made(type)
        async with house.readers([path] * count) as readers:

            async def act() -> None:
                assert await house.post(path, body, type) == 204
                await quiet(readers)

            yield act


def _case_caught_up(name: str, query: str, count: int, version: str = "1.1") -> None:
    @case(f"{name}, caught up with by {count:,}: {query} HTTP/{version}")
    async def _(house: House) -> AsyncIterator[Act]:
        type, body = EVENTS[name]
        path = await house.made(type)
        assert await house.post(path, body, type) == 204

        async def act() -> None:
            async with house.readers([path] * count, query, version, begun=False) as readers:
                await quiet(readers)

        yield act


def _case_polled(name: str, count: int, version: str = "1.1", live: str = "long-poll") -> None:
    @case(f"{name}, to {count:,} readers by {live} HTTP/{version}")
    async def _(house: House) -> AsyncIterator[Act]:
        type, body = EVENTS[name]
        path = await house.made(type)
        query = f"?offset=-1&live={live}"
        async with house.readers([path] * count, query, version, begun=live == "sse") as readers:
            await asyncio.sleep(1)

            async def act() -> None:
                assert await house.post(path, body, type) == 204
                await quiet(readers)

            yield act


for _name in EVENTS:
    _case_live(_name, 1)
    _case_live(_name, 100)
for _name in EVENTS:
    _case_caught_up(_name, "?offset=-1&live=sse", 1)
    _case_caught_up(_name, "?offset=-1", 1)
    _case_caught_up(_name, "?offset=-1&live=sse", 50)
    _case_caught_up(_name, "?offset=-1", 50)
    _case_polled(_name, 50)
for _name in ("text: 1 MiB of line breaks", "json: 5,000 events of 200 bytes", "json: 20,000 events of a byte"):
    _case_live(_name, CROWD)


# Crowds

EVENTS["an event of a byte"] = (JSON, b"1")
_case_live("an event of a byte", CROWD)
_case_polled("an event of a byte", CROWD)
_case_polled("an event of a byte", CROWD, "1.0", "sse")
_case_caught_up("an event of a byte", "?offset=-1&live=sse", CROWD)
_case_caught_up("an event of a byte", "?offset=-1", CROWD)


def _case_of_an_end(method: str, query: str) -> None:
    @case(f"crowd: a run with {CROWD:,} readers ({query}) {'is deleted' if method == 'DELETE' else 'is closed'}")
    async def _(house: House) -> AsyncIterator[Act]:
        path = await house.made()
        live = "sse" in query
        async with house.readers([path] * CROWD, query, begun=live) as readers:
            await asyncio.sleep(0 if live else 1)

            async def act() -> None:
                answer = await house.http.request(method, path, headers={"stream-closed": "true"})
                assert answer.status_code == 204, answer.text
                await quiet(readers)

            yield act


for _method in ("POST", "DELETE"):
    for _query in ("?offset=-1&live=sse", "?offset=-1&live=long-poll", "?meta&wait=60"):
        _case_of_an_end(_method, _query)


@case("crowd: 4,000 runs with a reader each: a heartbeat and sweeps")
async def _(house: House) -> AsyncIterator[Act]:
    gate = asyncio.Semaphore(64)

    async def make() -> str:
        async with gate:
            return await house.made()

    paths = await asyncio.gather(*(make() for _ in range(4_000)))
    async with house.readers(paths):

        async def act() -> None:
            await asyncio.sleep(10)

        yield act


@case("crowd: 250 runs with 16 readers each: an event to every one at once")
async def _(house: House) -> AsyncIterator[Act]:
    paths = [await house.made() for _ in range(250)]
    async with house.readers(paths * 16) as readers:

        async def act() -> None:
            await asyncio.gather(*(house.post(path, b"1") for path in paths))
            await quiet(readers)

        yield act


@case("crowd: 1,000 readers leave at once")
async def _(house: House) -> AsyncIterator[Act]:
    path = await house.made()
    async with house.readers([path] * 1_000) as readers:

        async def act() -> None:
            for reader in readers:
                assert reader.transport is not None
                reader.transport.abort()
            await asyncio.sleep(1)

        yield act


# Requests


def _case_raw(name: str, request: Callable[[str], bytes]) -> None:
    @case(name)
    async def _(house: House) -> AsyncIterator[Act]:
        path = await house.made()

        async def act() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", house.machine.port)
            writer.write(request(path))
            async with asyncio.timeout(PATIENCE):
                await reader.readuntil(b"\r\n\r\n")
            writer.close()

        yield act


def _head(method: str, path: str, more: bytes) -> bytes:
    return b"%b %b HTTP/1.1\r\nhost: h\r\n%b\r\n" % (method.encode(), path.encode(), more)


def _chunked(path: str, chunk: bytes, count: int) -> bytes:
    coded = b"content-type: application/json\r\ntransfer-encoding: chunked\r\n"
    return _head("POST", path, coded) + chunk * count + b"0\r\n\r\n"


_case_raw("request: a head of 7,000 headers", lambda path: _head("GET", path, b"a:\r\n" * 7_000))
_case_raw("request: 16,000 ETags", lambda path: _head("GET", path, b"if-none-match: %b\r\n" % (b"," * 32_000)))
_case_raw("request: a query of 30 kB", lambda path: _head("GET", f"{path}?{'%41' * 10_000}", b""))
_case_raw("request: 1 MB in chunks of a byte", lambda path: _chunked(path, b"1\r\n1\r\n", 1_000_000))
_case_raw("request: 1 MB in chunks with extensions", lambda path: _chunked(path, b"1;a=b;c=d\r\n1\r\n", 500_000))
_case_raw("request: 1,000 behind one another", lambda path: _head("HEAD", path, b"") * 1_000)


@case("request: 20 clients with 1 MB in chunks of a byte")
async def _(house: House) -> AsyncIterator[Act]:
    path = await house.made()
    body = _chunked(path, b"1\r\n1\r\n", 200_000)

    async def one(house: House) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.machine.port)
        writer.write(body)
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def act() -> None:
        await asyncio.gather(*(one(house) for _ in range(20)))

    yield act


@case("request: 200 appends of 60 events of 100 bytes, to 200 runs, at once")
async def _(house: House) -> AsyncIterator[Act]:
    paths = [await house.made() for _ in range(200)]
    body = b"[%b]" % b",".join(b'"%098d"' % n for n in range(60))

    async def act() -> None:
        await asyncio.gather(*(house.post(path, body) for path in paths for _ in range(5)))

    yield act


@case("request: 8 appends of 20,000 events of 50 bytes at once")
async def _(house: House) -> AsyncIterator[Act]:
    paths = [await house.made() for _ in range(8)]
    _, body = EVENTS["json: 20,000 events of 50 bytes"]

    async def act() -> None:
        await asyncio.gather(*(house.post(path, body) for path in paths))

    yield act


for _path in ("/openapi.json", "/docs", "/docs/swagger-ui-bundle.js", "/ui", "/metrics", "/ready", "/"):

    def _case_get(path: str) -> None:
        @case(f"page: {path}")
        async def _(house: House) -> AsyncIterator[Act]:
            async def act() -> None:
                await house.get(path)
                await house.get(path)

            yield act

    _case_get(_path)


@case("list: 500 runs with as much metadata as they may have")
async def _(house: House) -> AsyncIterator[Act]:
    metadata = {f"{n:0256}": "v" * 1024 for n in range(32)}
    for _ in range(500):
        answer = await house.http.post("/runs", json={"metadata": metadata, "workflowName": "large"})
        assert answer.status_code == 201, answer.text

    async def act() -> None:
        await house.get("/runs?limit=500&workflowName=large")

    yield act


@case("record: a run with an input of 1 MB")
async def _(house: House) -> AsyncIterator[Act]:
    answer = await house.http.post("/runs", content=b'{"input":[%b]}' % b",".join([b"1"] * 500_000), headers=JSON)

    async def act() -> None:
        await house.get(f"/runs/{answer.json()['runId']}?meta")

    yield act


# Subscriptions

SUBSCRIPTIONS: Final = "/v1/stream/__ds/subscriptions"


async def _subscribed(house: House, streams: list[str], **more: object) -> str:
    path = f"{SUBSCRIPTIONS}/{uuid4().hex}"
    asked = {"type": "pull-wake", "streams": streams, "wake_stream": f"w/{uuid4().hex}", **more}
    answer = await house.http.put(path, content=json.dumps(asked, separators=(",", ":")), headers=JSON)
    assert answer.status_code == 201, answer.text
    return path


@case("subscription: one of 10,000 streams is made, read, acked and deleted")
async def _(house: House) -> AsyncIterator[Act]:
    prefix = uuid4().hex[:6]
    streams = [f"{prefix}/{n}" for n in range(10_000)]

    async def act() -> None:
        path = await _subscribed(house, streams)
        await house.get(path)
        acks = [{"stream": stream, "offset": "-1"} for stream in streams[:5_000]]
        await house.http.post(f"{path}/ack", json={"acks": acks, "done": True}, headers={"authorization": "Bearer x"})
        assert (await house.http.delete(path)).status_code == 204

    yield act


@case("subscription: a body of 256 KiB of arrays, of objects, of streams")
async def _(house: House) -> AsyncIterator[Act]:
    names = b'","'.join(b"%x" % n for n in range(30_000))
    bodies = (
        b"[%b]" % b",".join([b"[]"] * 87_000),
        b"[%b]" % b",".join([b"{}"] * 87_000),
        b'{"streams":["%b"]}' % names,
    )

    async def act() -> None:
        for body in bodies:
            await house.http.put(f"{SUBSCRIPTIONS}/{uuid4().hex}", content=body, headers=JSON)

    yield act


@case("subscription: appends to paths that 200 patterns are compared with")
async def _(house: House) -> AsyncIterator[Act]:
    made = []
    for n in range(200):
        pattern = "/".join(["**", *(["a"] * 250), f"b{n}"])
        made.append(await _subscribed(house, [], pattern=pattern))
    path = "/v1/stream/" + "/".join(["a"] * 500)
    await asyncio.sleep(2)

    async def act() -> None:
        await house.http.put(path + uuid4().hex[:8], headers=JSON, content=b"[1]")
        await house.http.put(path + uuid4().hex[:8], headers=JSON, content=b"[1]")

    yield act
    for each in made:
        await house.http.delete(each)
