"""The agent server behind the relay: it streams numbered frames, breaks off at times, and can go on with some answers.

It lives in the harness's own process, so that it is no Machine that fails, and knows what it has sent.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

ABLE, PLAIN = "able", "plain"  # the paths: the first can go on with an answer, the second knows nothing of that
CUT = (0.3, 1.5)  # seconds after which an answer breaks off that does so once, from and to
INTERVAL = (0.005, 0.1)  # seconds between two frames, from and to
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"


@dataclass
class Turn:
    """One answer. `frames`: all that have been made so far. `over`: there will be no more."""

    key: str
    frames: list[bytes] = field(default_factory=list)
    over: bool = False
    calls: int = 0  # POSTs
    asked: int = 0  # for the rest
    readers: int = 0  # connections on which it is being sent
    cuts: int = 0
    grown: asyncio.Condition = field(default_factory=asyncio.Condition)


class Upstream:
    """`turns` are the answers by their keys. Those to come are made for so many seconds as `lasts` says, and those in
    `breaks` break off.
    """

    def __init__(self, rng: random.Random) -> None:
        self.turns: dict[str, Turn] = {}
        self.url = ""
        self.lasts: dict[str, float] = {}
        self.breaks: set[str] = set()
        self._rng = rng
        self._tasks = set[asyncio.Task[None]]()

    def turn(self, key: str) -> Turn:
        return self.turns.setdefault(key, Turn(key))

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._answer(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            await reader.readexactly(int(headers.get("content-length", 0)))
            method, target, _ = first.split(" ")
            kind, _, key = target.strip("/").partition("/")
            if method == "POST" and kind in (ABLE, PLAIN) and "x-run-id" in headers:
                await self._begin(kind, headers["x-run-id"], writer)
            elif method == "GET" and kind == ABLE and key in self.turns:
                last = headers.get("last-event-id")
                self.turns[key].asked += 1
                await self._send(self.turns[key], 0 if last is None else int(last) + 1, writer)
            else:
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _begin(self, kind: str, key: str, writer: asyncio.StreamWriter) -> None:
        turn = self.turn(key)
        turn.calls += 1
        making = asyncio.create_task(self._make(turn))
        try:
            await self._send(turn, 0, writer, self._rng.uniform(*CUT) if key in self.breaks else None)
        finally:
            if kind == PLAIN:  # nobody would ever ask for the rest
                making.cancel()
                await asyncio.wait((making,))
                async with turn.grown:
                    turn.over = True
                    turn.grown.notify_all()
            else:
                await asyncio.wait((making,))

    async def _make(self, turn: Turn) -> None:
        until = asyncio.get_running_loop().time() + self.lasts.get(turn.key, 1.0)
        pace = self._rng.uniform(*INTERVAL)
        while asyncio.get_running_loop().time() < until:
            await self._frame(turn, b"more")
            if self._rng.random() < 0.8:  # some come together
                await asyncio.sleep(pace * self._rng.uniform(0, 2))
        await self._frame(turn, b"done", over=True)

    async def _frame(self, turn: Turn, word: bytes, *, over: bool = False) -> None:
        async with turn.grown:
            n = len(turn.frames)
            pad = b"x" * self._rng.choice((0, 0, 0, 100, 9_000))
            body = b'{"run":"%b","n":%d,"word":"%b","pad":"%b"}' % (turn.key.encode(), n, word, pad)
            turn.frames.append(b"id: %d\ndata: %b\n\n" % (n, body))
            turn.over = over
            turn.grown.notify_all()

    async def _send(self, turn: Turn, at: int, writer: asyncio.StreamWriter, breaks: float | None = None) -> None:
        """From this frame on, to the end or until it breaks off."""
        loop = asyncio.get_running_loop()
        until = None if breaks is None else loop.time() + breaks
        writer.write(HEAD)
        turn.readers += 1
        try:
            while not (turn.over and at >= len(turn.frames)):
                await self._until(turn, at)
                data, at = b"".join(turn.frames[at:]), len(turn.frames)
                if until is not None and loop.time() > until:
                    turn.cuts += 1
                    writer.write(b"%x\r\n%b" % (len(data), data[: self._rng.randrange(len(data))]))
                    await writer.drain()
                    writer.transport.abort()
                    return
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            turn.readers -= 1

    async def _until(self, turn: Turn, at: int) -> None:
        """Returns when there are more frames than these, or will be none."""
        async with turn.grown:
            await turn.grown.wait_for(lambda: turn.over or at < len(turn.frames))


@asynccontextmanager
async def open_upstream(rng: random.Random) -> AsyncIterator[Upstream]:
    """One that listens on loopback until the block ends."""
    upstream = Upstream(rng)
    server = await asyncio.start_server(upstream._serve, "127.0.0.1", 0)
    upstream.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        for task in list(upstream._tasks):
            task.cancel()
        await asyncio.gather(*upstream._tasks, return_exceptions=True)
