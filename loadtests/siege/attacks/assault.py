"""What attacks have in common: an end in time, keys, connections that nobody minds, and a count of what came of it."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

from loadtests.siege.orders import Orders

ANSWER_PATIENCE = 30.0  # seconds

LOST = (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError)


class Assault:
    """One row's. `seen`: what was done and what it was answered."""

    def __init__(self, orders: Orders, rng: random.Random) -> None:
        self.orders = orders
        self.rng = rng
        self.seen: Counter[str] = Counter()
        self._end = time.monotonic() + orders.seconds
        self._addresses = [(str(urlsplit(url).hostname), int(urlsplit(url).port or 80)) for url in orders.urls]

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._end

    @property
    def left(self) -> float:
        """Seconds until it is over."""
        return max(0.0, self._end - time.monotonic())

    async def rest(self, seconds: float) -> None:
        """Sleeps, but not beyond the end."""
        await asyncio.sleep(min(seconds, self.left))

    def address(self) -> tuple[str, int]:
        return self.rng.choice(self._addresses)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError, TimeoutError."""
        async with asyncio.timeout(ANSWER_PATIENCE):
            return await asyncio.open_connection(*self.address())

    async def many(self, count: int, attack: Callable[[int], Awaitable[None]]) -> None:
        """So many at once, each begun again until the end, whatever becomes of it."""

        async def again(number: int) -> None:
            while not self.over:
                try:
                    async with asyncio.timeout(self.left + 1):
                        await attack(number)
                except LOST as error:
                    self.seen[type(error).__name__] += 1
                    await self.rest(0.05)

        await asyncio.gather(*[again(number) for number in range(count)])

    def request(self, method: str, target: str, body: bytes = b"", scope: str = "", **headers: str) -> bytes:
        """The bytes of a request, with the key of that scope."""
        lines = {"host": "h", "content-type": "application/json"}
        lines |= {name.replace("_", "-"): value for name, value in headers.items()}
        if scope:
            lines["authorization"] = f"Bearer {self.orders.keys[scope]}"
        if body or method in ("PUT", "POST"):
            lines.setdefault("content-length", str(len(body)))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body

    def line(self) -> Line:
        return Line(self)


class Line:
    """A connection that asks one thing at a time, and is made again when it has ended."""

    def __init__(self, assault: Assault) -> None:
        self._assault = assault
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, target: str, body: bytes = b"", scope: str = "write", **headers: str) -> int:
        """The status. Raises what LOST lists."""
        if self._streams is None:
            self._streams = await self._assault.connect()
        reader, writer = self._streams
        try:
            async with asyncio.timeout(ANSWER_PATIENCE):
                writer.write(self._assault.request(method, target, body, scope, **headers))
                await writer.drain()
                head = b"http/1.1 100"
                while head[9:10] == b"1":  # interim answers (RFC 9110 §15.2)
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0].strip()
                await reader.readexactly(int(length or 0))
        except LOST:
            self.close()
            raise
        status = int(head[9:12])
        if b"connection: close" in head:
            self.close()
        self._assault.seen[f"{method} {status}"] += 1
        return status

    def close(self) -> None:
        if self._streams is not None:
            with suppress(RuntimeError):
                self._streams[1].transport.abort()
            self._streams = None
