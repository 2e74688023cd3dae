"""A server of one JSON stream whose answers can be spoilt at any byte: the faults that clients must survive.

Written from the protocol and independent of the gateway, so that the client is not tested with its own mistakes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request. The default is nothing."""

    ignored: bool = False
    """The request takes no effect."""
    status: int | None = None
    """This answer is given instead of the real one."""
    headers: tuple[str, ...] = ()
    cut: int | None = None
    """The connection is ended after so many bytes of the answer."""


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass
class Stream:
    """The stream, what was asked of it, and what shall go wrong next."""

    faults: Iterator[Fault]
    events: list[object] = field(default_factory=list)
    exists: bool = True
    closed: bool = False
    newline: str = "\n"
    binary: bool = False
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def change(self, *events: object, close: bool = False) -> None:
        """Append, or close."""
        async with self.changed:
            self.events += events
            self.closed |= close
            self.changed.notify_all()

    async def answer(self, request: Request, fault: Fault) -> AsyncIterator[bytes]:
        """The bytes of the answer, as they come up."""
        if fault.status is not None:
            if not fault.ignored and request.method == "POST":
                await self._post(request)
            yield _plain(fault.status, *fault.headers)
        elif not self.exists and request.method != "PUT":
            yield _plain(404)
        elif request.method == "GET":
            async for piece in self._sse(request):
                yield piece
        elif request.method == "POST":
            yield _plain(204) if fault.ignored else await self._post(request)
        else:
            self.exists = True
            yield _plain(200, "content-type: application/json", f"stream-next-offset: {offset(len(self.events))}")

    async def _post(self, request: Request) -> bytes:
        name, epoch, seq = (request.headers[f"producer-{part}"] for part in ("id", "epoch", "seq"))
        known_epoch, last = self.producers.get(name, (int(epoch), -1))
        if int(epoch) < known_epoch:
            return _plain(403, f"producer-epoch: {known_epoch}")
        if int(epoch) > known_epoch:
            last = -1
        if int(seq) <= last:
            return _plain(204, f"producer-seq: {last}", f"stream-next-offset: {offset(len(self.events))}")
        if self.closed:
            return _plain(409, "stream-closed: true")
        if int(seq) > last + 1:
            return _plain(409, f"producer-expected-seq: {last + 1}", f"producer-received-seq: {seq}")
        self.producers[name] = (int(epoch), int(seq))
        await self.change(*json.loads(request.body or b"[]"), close="stream-closed" in request.headers)
        return _plain(200, f"producer-seq: {seq}", f"stream-next-offset: {offset(len(self.events))}")

    async def _sse(self, request: Request) -> AsyncIterator[bytes]:
        encoding = "stream-sse-data-encoding: base64\r\n" if self.binary else ""
        yield (
            f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{encoding}transfer-encoding: chunked\r\n\r\n"
        ).encode()
        position = 0 if request.query["offset"] == "-1" else int(request.query["offset"][-16:])
        while True:
            while position < len(self.events):
                position += 1
                # The last data and the closing come in two frames, so that there is a place between them.
                yield _chunk(self._frame([self.events[position - 1]], position, closed=False))
            if self.closed:
                yield _chunk(self._frame([], position, closed=True)) + b"0\r\n\r\n"
                return
            async with self.changed:
                await self.changed.wait_for(partial(self._has_news, position))

    def _has_news(self, position: int) -> bool:
        return position < len(self.events) or self.closed

    def _frame(self, events: list[object], position: int, *, closed: bool) -> str:
        control = {"streamNextOffset": offset(position)} | ({"streamClosed": True} if closed else {"streamCursor": "7"})
        data = f"event: data\ndata:{events[0] if self.binary else json.dumps(events)}\n\n" if events else ""
        return f"{data}event: control\ndata:{json.dumps(control)}\n\n".replace("\n", self.newline)


def offset(position: int) -> str:
    """The offset after so many events."""
    return f"{0:016}_{position:016}"


def _plain(status: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *headers, *([] if status == 204 else ["content-length: 0"])]
    return "\r\n".join([*lines, "", ""]).encode()


def _chunk(text: str) -> bytes:
    return b"%x\r\n%b\r\n" % (len(text.encode()), text.encode())


@asynccontextmanager
async def scripted(*events: object, closed: bool = False, faults: Iterable[Fault] = ()) -> AsyncIterator[Stream]:
    """The stream, served at its `url`; the first requests meet the faults, in order."""
    stream = Stream(iter(faults), list(events), closed=closed)
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while await _converse(stream, reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client has left: its right
        except asyncio.CancelledError:
            return  # only by the end below; asyncio.streams (3.11) takes a handler that ends as cancelled for a fault
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    stream.url = f"http://{host}:{port}"
    try:
        yield stream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _converse(stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    request = Request(method, target, headers, body)
    stream.requests.append(request)
    fault = next(stream.faults, Fault())
    left = fault.cut
    async for piece in stream.answer(request, fault):
        writer.write(piece if left is None else piece[:left])
        left = None if left is None else left - len(piece)
        if left is not None and left <= 0:
            await writer.drain()
            return False
        await writer.drain()
    return True
