"""Clients that stream: each notes how late every frame came, and that all came, once and in order."""

from __future__ import annotations

import asyncio
import json
import re
import time
from array import array
from dataclasses import dataclass, field

_FRAME = re.compile(rb'"n":(\d+),"t":(\d+)')


@dataclass
class Seen:
    """What all clients of a measurement have seen. Times are milliseconds."""

    delays: array[float] = field(default_factory=lambda: array("d"))
    firsts: array[float] = field(default_factory=lambda: array("d"))
    gaps: array[float] = field(default_factory=lambda: array("d"))
    frames: int = 0
    wrong: int = 0


class Asker(asyncio.Protocol):
    """One request. `done` is set when its answer has ended."""

    def __init__(self, seen: Seen, request: bytes) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.begun = asyncio.get_running_loop().create_future()
        self._seen = seen
        self._request = request
        self._rest = b""
        self._n = 0
        self._asked = 0
        self._before = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._asked = time.time_ns()
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        data = self._rest + data
        at = 0
        seen = self._seen
        for found in _FRAME.finditer(data):
            n, sent = int(found[1]), int(found[2])
            if n != self._n:
                seen.wrong += 1
            if self._before:
                seen.gaps.append((now - self._before) / 1e6)
            else:
                seen.firsts.append((now - self._asked) / 1e6)
                if not self.begun.done():
                    self.begun.set_result(None)
            self._before = now
            self._n = n + 1
            seen.frames += 1
            seen.delays.append((now - sent) / 1e6)
            at = found.end()
        self._rest = data[at:][-200:]

    def connection_lost(self, error: Exception | None) -> None:
        for told in (self.done, self.begun):
            if not told.done():
                told.set_result(None)


async def ask(port: int, seen: Seen, id: str, frames: int, rate: float) -> Asker:
    """A POST that is answered by a stream."""
    body = json.dumps({"id": id, "frames": frames, "rate": rate}).encode()
    request = (
        b"POST /api/chat HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\nconnection: close\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )
    return await _connect(port, Asker(seen, request))


async def follow(port: int, seen: Seen, id: str) -> Asker:
    """A client that comes back to it."""
    request = b"GET /api/chat/%b/stream HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n" % id.encode()
    return await _connect(port, Asker(seen, request))


async def _connect(port: int, asker: Asker) -> Asker:
    await asyncio.get_running_loop().create_connection(lambda: asker, "127.0.0.1", port)
    return asker
