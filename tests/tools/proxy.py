"""A TCP forwarder between a client and a server with named faults: cut, cut before bytes, lose, refuse, hold back.

Bytes only: it knows nothing of HTTP, the gateway or Postgres, so it serves in front of either.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

End = Literal["reset", "end"]  # an RST, as from a killed machine; a FIN, as from a killed process
PIECE = 64 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER, 0 seconds


@dataclass(eq=False)
class Trap:
    """Waits, in what servers send, for the next time these bytes come; the connection ends right before them."""

    pattern: bytes
    end: End
    _sprung: asyncio.Event = field(default_factory=asyncio.Event)

    def spring(self) -> None:
        self._sprung.set()

    async def sprung(self, timeout: float = 30) -> None:
        """Waits until the connection has been cut."""
        async with asyncio.timeout(timeout):
            await self._sprung.wait()


class Proxy:
    """`async with Proxy("http://127.0.0.1:8080") as proxy:` listens at `proxy.url`, forwards to `proxy.target`.

    A target `unix:/path` is a socket in the file system; there is no `url` then, only `port`.
    A new target holds for new connections; those that exist stay where they are until `cut`.
    `accepted` counts the connections that clients have made, `turns` how often a client spoke after its server did, or
    first: the round trips, for those who wait for an answer.
    `latency` is the time in seconds that each piece from the server waits; with a chance of `loss` it waits three times
    as long, for it had to be sent again. What comes meanwhile
    is passed on with the next one, as by a proxy that buffers.
    """

    def __init__(self, target: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.target = target
        self._listen = host, port
        self.accepted = 0
        self.turns = 0
        self.latency = 0.0
        self.loss = 0.0
        self._links: set[_Link] = set()
        self._traps: list[Trap] = []
        self._refusing = False
        self._open = asyncio.Event()
        self._open.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, *self._listen)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        tasks = [link.task for link in self._links]
        self.cut()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The target's address with the proxy's own host and port in it: path, user and query stay."""
        parts = urlsplit(self.target)
        login, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{login}{at}{self._listen[0]}:{self.port}"))

    @property
    def connections(self) -> int:
        """How many client connections are open now."""
        return len(self._links)

    def cut(self, end: End = "reset") -> int:
        """Ends all connections as they stand, on both sides; returns how many there were."""
        links = list(self._links)
        for link in links:
            link.cut(end)
        return len(links)

    def lose(self) -> int:
        """Half-open for good: what comes on connections that exist is thrown away, and neither side is told; new ones
        work. Returns how many there were.
        """
        for link in self._links:
            link.lost = True
        return len(self._links)

    def cut_before(self, pattern: bytes, end: End = "end") -> Trap:
        """Lets everything through up to these bytes from a server, then ends that one connection; once."""
        trap = Trap(pattern, end)
        self._traps.append(trap)
        return trap

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """New connections are reset at once, as where no Machine listens."""
        self._refusing = True
        try:
            yield
        finally:
            self._refusing = False

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Half-open: connections stay, and nothing passes in either direction until the block ends."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing:
            _finish(writer, "reset")
            return
        task = asyncio.current_task()
        assert task is not None
        link = _Link(self, task, writer)
        self._links.add(link)
        try:
            await link.carry(reader)
        finally:
            self._links.discard(link)


class _Link:
    """One client's connection and the one to the server that it is forwarded to."""

    def __init__(self, proxy: Proxy, task: asyncio.Task[None], client: asyncio.StreamWriter) -> None:
        self.task = task
        self._proxy = proxy
        self._writers = [client]
        self._end: End | None = None
        self._ended = asyncio.Event()
        self._heard_client = False  # last
        self.lost = False

    async def carry(self, from_client: asyncio.StreamReader) -> None:
        """Passes bytes both ways until both sides have ended, or one fails, or the link is cut."""
        try:
            from_server, to_server = await _connect(self._proxy.target)
        except OSError:
            self.cut("reset")
            return
        self._writers.append(to_server)
        if self._end is not None:  # cut while it was connecting
            self.cut(self._end)
            return
        pumps = asyncio.gather(
            self._pump(from_client, to_server),
            self._pump(from_server, self._writers[0], from_the_server=True),
        )
        ended = asyncio.ensure_future(self._ended.wait())
        either: tuple[asyncio.Future[Any], ...] = (pumps, ended)
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in either:
                future.cancel()
            results = await asyncio.gather(*either, return_exceptions=True)
            # What fails on one side reaches the other as what it was: a reset.
            self.cut("reset" if isinstance(results[0], OSError) else self._end or "end")

    def cut(self, end: End) -> None:
        self._end = self._end or end
        self._ended.set()
        for writer in self._writers:
            _finish(writer, self._end)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, from_the_server: bool = False
    ) -> None:
        held = b""  # what may be the beginning of a trap's pattern
        while piece := await reader.read(PIECE):
            self._proxy.turns += not from_the_server and not self._heard_client
            self._heard_client = not from_the_server
            await self._proxy._open.wait()
            if self.lost:
                continue
            if from_the_server:
                if self._proxy.latency:
                    again = 3 if random.random() < self._proxy.loss else 1
                    await asyncio.sleep(self._proxy.latency * again)
                piece, held, sprung = _spring(self._proxy._traps, held + piece)
            writer.write(piece)
            await writer.drain()
            if from_the_server and sprung is not None:
                self._proxy._traps.remove(sprung)
                self.cut(sprung.end)
                sprung.spring()
                return
        if self.lost:
            await self._ended.wait()  # an end, too, is something that would have to arrive
        writer.write(held)
        if writer.can_write_eof():
            writer.write_eof()


def _spring(traps: list[Trap], data: bytes) -> tuple[bytes, bytes, Trap | None]:
    """What may pass now, what is held since a pattern may begin in it, and the trap that springs, if any."""
    found = [(data.find(trap.pattern), trap) for trap in traps if trap.pattern in data]
    if found:
        index, trap = min(found, key=lambda pair: pair[0])
        return data[:index], b"", trap
    kept = max((_overlap(data, trap.pattern) for trap in traps), default=0)
    return data[: len(data) - kept], data[len(data) - kept :], None


def _overlap(data: bytes, pattern: bytes) -> int:
    """How many of data's last bytes are the pattern's first."""
    return next(n for n in range(min(len(data), len(pattern) - 1), -1, -1) if data.endswith(pattern[:n]))


async def _connect(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(target)
    if parts.scheme == "unix":
        return await asyncio.open_unix_connection(parts.path)
    assert parts.hostname is not None, f"{target} names no host"
    assert parts.port is not None, f"{target} names no port"
    return await asyncio.open_connection(parts.hostname, parts.port)


def _finish(writer: asyncio.StreamWriter, end: End) -> None:
    """Closes one side: an abort with nothing lingering sends an RST, a close flushes and sends a FIN."""
    if end == "end":
        writer.close()
        return
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()
