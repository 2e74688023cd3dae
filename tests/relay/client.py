"""A client of the relay that tells a clean end from a cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from tests.servers import PATIENCE


class Response:
    """A response as it comes. `body`: what has come of it. `whole`: whether its last chunk has; None: not yet ended."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.whole: bool | None = None
        self._reader = reader
        self._writer = writer
        self._grown = asyncio.Condition()
        self._task = asyncio.ensure_future(self._read())

    async def until(self, text: bytes) -> None:
        """Returns when this has come."""
        async with asyncio.timeout(PATIENCE), self._grown:
            await self._grown.wait_for(lambda: text in self.body or self.whole is not None)
            assert text in self.body, self.body

    async def ended(self) -> bytes:
        """The whole of what comes."""
        async with asyncio.timeout(PATIENCE):
            await self._task
        return self.body

    async def begun(self) -> None:
        """Returns when the head has come."""
        async with asyncio.timeout(PATIENCE), self._grown:
            await self._grown.wait_for(lambda: self.status or self.whole is not None)

    def pause(self) -> None:
        """Reads no further."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Reads on."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def leave(self) -> None:
        """Closes the connection."""
        self._task.cancel()
        await asyncio.wait((self._task,))
        self._writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        whole = False
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            self.status = int(first.split(" ")[1])
            await self._tell()
            if self.headers.get("transfer-encoding") == "chunked":
                while size := await self._size():
                    self.body += await self._reader.readexactly(size)
                    await self._reader.readexactly(2)
                    await self._tell()
            elif self.status not in (204, 304):
                self.body = await self._reader.readexactly(int(self.headers.get("content-length", 0)))
            whole = True
        self.whole = whole
        await self._tell()

    async def _size(self) -> int:
        line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise asyncio.IncompleteReadError(line, None)
        size = int(line, 16)
        if not size:
            await self._reader.readexactly(2)
        return size

    async def _tell(self) -> None:
        async with self._grown:
            self._grown.notify_all()


@contextlib.asynccontextmanager
async def asking(
    url: str, method: str, target: str, headers: dict[str, str] | None = None, body: Any = None
) -> AsyncIterator[Response]:
    """A request, and its response until the block ends."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"host": "app.test", **({} if body is None else {"content-type": "application/json"}), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    if body is not None:
        lines += f"content-length: {len(data)}\r\n"
    writer.write(f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + data)
    response = Response(reader, writer)
    try:
        yield response
    finally:
        await response.leave()


async def answer(
    url: str, method: str, target: str, headers: dict[str, str] | None = None, body: Any = None
) -> Response:
    """A response that has ended."""
    async with asking(url, method, target, headers, body) as response:
        await response.ended()
        return response
