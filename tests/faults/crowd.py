"""A crowd of readers on raw sockets, each of which keeps all that it was sent and how its connection ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

from tests.servers import body_of


@dataclass(eq=False)
class Stream:
    """One request and its answer. `end`: a FIN, or the reset that a client must never see."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    given: bytes = b""
    end: Literal["fin", "reset"] | None = None

    @classmethod
    async def open(cls, url: str, *headers: str, method: str = "GET") -> Self:
        parts = urlsplit(url)
        assert parts.hostname is not None
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        writer.write("\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", *headers, "", ""]).encode())
        return cls(reader, writer)

    @property
    def status(self) -> int:
        return int(self.given[9:12])

    @property
    def clean(self) -> bool:
        """Whether a whole chunked body came, and then the end of the connection."""
        return self.end == "fin" and self.given.startswith(b"HTTP/1.1 200") and body_of(self.given) is not None

    async def until(self, pattern: bytes) -> None:
        """Reads until these bytes have come."""
        while pattern not in self.given:
            piece = await self.reader.read(65_536)
            assert piece, f"{pattern!r} did not come: {self.given!r}"
            self.given += piece

    async def to_the_end(self) -> None:
        try:
            while piece := await self.reader.read(65_536):
                self.given += piece
            self.end = "fin"
        except ConnectionError:
            self.end = "reset"
        finally:
            self.writer.close()


async def follow(url: str, count: int) -> list[Stream]:
    """So many SSE readers of one stream, all of them at its tail."""
    crowd: list[Stream] = []
    for _ in range(0, count, 100):
        some = await asyncio.gather(*(Stream.open(f"{url}?offset=-1&live=sse") for _ in range(min(100, count))))
        await asyncio.gather(*(stream.until(b'"upToDate":true') for stream in some))
        crowd += some
    return crowd
