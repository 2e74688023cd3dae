"""An agent server whose answers a test speaks word by word. It knows nothing of resuming."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tests.servers import PATIENCE

SSE = {"content-type": "text/event-stream"}


@dataclass(eq=False)
class Call:
    """A request that has come to the agent server. Nothing is answered until the test says so."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    over: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def begin(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """The head of an answer in chunks."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in (SSE if headers is None else headers).items())
        self.writer.write(f"HTTP/1.1 {status} X\r\n{lines}transfer-encoding: chunked\r\n\r\n".encode())
        await self.writer.drain()

    async def say(self, *frames: bytes) -> None:
        """These bytes, each as a chunk of its own."""
        for frame in frames:
            self.writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        await self.writer.drain()

    async def end(self) -> None:
        """The clean end of the answer."""
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        self.over.set()

    async def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """A whole answer."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.writer.write(f"HTTP/1.1 {status} X\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body)
        await self.writer.drain()
        self.over.set()

    def cut(self) -> None:
        """The connection breaks."""
        self.writer.transport.abort()
        self.over.set()

    async def left(self) -> None:
        """Returns when the other side has closed the connection."""
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(1024):
                    pass
        self.over.set()


class Agent:
    """The server. `calls` are all requests so far; `call` waits for the next one."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.url = ""
        self._next: asyncio.Queue[Call] = asyncio.Queue()
        self._serving: list[asyncio.Future[None]] = []
        self._open: set[Call] = set()

    async def call(self) -> Call:
        async with asyncio.timeout(PATIENCE):
            return await self._next.get()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.append(asyncio.ensure_future(self._answer(reader, writer)))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            method, target, _ = first.split(" ")
            call = Call(method, target, headers, body, reader, writer)
            self.calls.append(call)
            self._next.put_nowait(call)
            self._open.add(call)
            await call.over.wait()
            self._open.discard(call)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[Agent]:
        agent = cls()
        server = await asyncio.start_server(agent._serve, "127.0.0.1", 0)
        agent.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield agent
        finally:
            for call in list(agent._open):
                call.cut()
            server.close()
            await asyncio.gather(*agent._serving)
