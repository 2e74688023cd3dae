"""Pages at an origin of their own: `async with serve_pages({"/": b"<p>hello</p>"}) as origin`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

_TYPES = {"js": "text/javascript", "html": "text/html"}


@asynccontextmanager
async def serve_pages(pages: Mapping[str, bytes]) -> AsyncIterator[str]:
    """Serves these bodies by their paths, queries aside, until the block ends; all else is 404."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = request.split(" ")[1].partition("?")[0]
            body = pages.get(path)
            status = "404 Not Found" if body is None else "200 OK"
            type = _TYPES.get(path.rpartition(".")[2], "text/html")
            lines = [f"HTTP/1.1 {status}", f"content-type: {type}", f"content-length: {len(body or b'')}"]
            writer.write("\r\n".join([*lines, "connection: close", "", ""]).encode() + (body or b""))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the browser has thought better of it
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
