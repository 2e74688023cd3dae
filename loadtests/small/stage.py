"""The Machine in its group, the clients around it, and the phases: each leaves its readers to the next."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from gateway.process.machine import Machine
from loadtests.bench.clients.program import Program

JSON: Final = {"content-type": "application/json"}
A_RUN: Final = 10  # idle readers of each run
EVENTS: Final = 20  # of each of these runs
PACE: Final = 2_000  # bytes a second that a slow reader takes
FLOOD: Final = 4_000  # events that slow readers are sent, in 20 s
LONG: Final = 100_000  # events of the long run
CHATS: Final = 200  # relayed runs
FRAMES: Final = 200  # of each, in 10 s
PADDING: Final = "x" * 140  # of an event of some 200 bytes
PATIENCE: Final = 300.0


class Stage:
    """`scale`: of the numbers of readers."""

    def __init__(
        self, machine: Machine, tools: Mapping[str, Path], http: httpx.AsyncClient, stack: AsyncExitStack, scale: float
    ) -> None:
        self._machine = machine
        self._tools = tools
        self._http = http
        self._stack = stack
        self._scale = scale
        self._leaving = AsyncExitStack()  # the idle readers who come back
        self._there: list[tuple[Program, int]] = []  # who has to be there at the end, and how many they are

    def count(self, number: int) -> int:
        return max(A_RUN, int(number * self._scale))

    async def idle(self) -> None:
        """10,000 idle readers: half of them will come back."""
        number = self.count(5_000)
        for half in "ab":
            for first in range(0, number // A_RUN, 50):
                runs = range(first, min(first + 50, number // A_RUN))
                await asyncio.gather(*(self._make(f"{half}{run}", EVENTS) for run in runs))
        await self._stack.enter_async_context(self._readers("a", number))
        await self._stack.enter_async_context(self._leaving)
        await self._leaving.enter_async_context(self._readers("b", number))

    async def storm(self) -> None:
        """5,000 come back at once: their connections were cut."""
        await self._leaving.aclose()
        self._there.pop()
        await self._leaving.enter_async_context(self._readers("b", self.count(5_000)))
        await self.check()

    async def slow(self) -> None:
        """2,500 slow readers more: they are sent more than they take."""
        await self._make("s0", 1)
        await self._stack.enter_async_context(self._readers("s", self.count(2_500), runs=1, pace=PACE))
        for first in range(2, FLOOD, 40):
            next_one = asyncio.create_task(asyncio.sleep(0.2))
            await self._append("s0", range(first, first + 40))
            await next_one

    async def long(self) -> None:
        """100,000 events, read by 50: and by five more who have them compressed."""
        await self._make("long0", LONG)
        catchup = self._tools["catchup"]
        options = {"port": self._machine.port, "path": "/runs/long0", "readers": 50, "events": LONG}
        async with Program.start(catchup, **options) as program:
            compressed = asyncio.gather(*(self._compressed("long0") for _ in range(5)))
            line = await program.line(PATIENCE)
            assert not line.get("faults"), "a reader of the long run missed something"
            assert await compressed == [LONG] * 5

    async def relayed(self) -> None:
        """200 relayed runs: answers of the application, all at one time."""
        said = await asyncio.gather(*(self._chat() for _ in range(self.count(CHATS))))
        assert set(said) == {FRAMES}, "an answer lacks frames"
        await self.check()

    async def check(self) -> None:
        """Nobody who is there has lost, missed or repeated anything."""
        for program, number in self._there:
            stats = await _stats(program)
            wrong = {name: stats[name] for name in ("gaps", "repeats", "lost") if stats[name]}
            assert stats["up"] == number and not wrong, f"of {number} readers {stats['up']} are there: {wrong}"

    @asynccontextmanager
    async def _readers(self, prefix: str, number: int, *, runs: int = 0, **more: object) -> AsyncIterator[None]:
        """SSE readers, for as long as the block lasts, which begins when each is there and has read what there is. One
        that is told to come later, as an EventSource is, does so.
        """
        least = EVENTS if not runs else 1
        path = f"/runs/{prefix}%r?offset=0000000000000000_%o&live=sse"
        options = {"port": self._machine.port, "path": path, "readers": number, "runs": runs or number // A_RUN, **more}
        async with Program.start(self._tools["readers"], **options) as program:
            async with asyncio.timeout(PATIENCE):
                stats = await _stats(program)
                while stats["up"] < number or stats["least"] < least:
                    await asyncio.sleep(0.2)
                    stats = await _stats(program)
            self._there.append((program, number))
            yield

    async def _make(self, run: str, events: int) -> None:
        body = _events(range(1, min(1_000, events) + 1))
        (await self._http.put(f"/runs/{run}", headers=JSON, content=body)).raise_for_status()
        for first in range(1_001, events + 1, 1_000):
            await self._append(run, range(first, min(first + 1_000, events + 1)))

    async def _append(self, run: str, numbers: range) -> None:
        (await self._http.post(f"/runs/{run}", headers=JSON, content=_events(numbers))).raise_for_status()

    async def _compressed(self, run: str) -> int:
        """Reads all pages of a run as gzip, and returns the number of its events."""
        offset, found = "-1", 0
        while True:
            page = await self._http.get(f"/runs/{run}?offset={offset}", headers={"accept-encoding": "gzip"})
            assert page.headers["content-encoding"] == "gzip"
            found += page.content.count(b'"n":"')
            if "stream-up-to-date" in page.headers:
                return found
            offset = page.headers["stream-next-offset"]

    async def _chat(self) -> int:
        """By a plain connection: 200 requests of httpx at one time take so long to begin that /health seems to."""
        body = b'{"frames":%d,"rate":%d}' % (FRAMES, FRAMES // 10)
        reader, writer = await asyncio.open_connection("127.0.0.1", self._machine.port)
        writer.write(b"POST /api/chat HTTP/1.1\r\nhost: small\r\ncontent-type: application/json\r\n")
        writer.write(b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        try:
            return (await reader.read()).count(b'"text-delta"')
        finally:
            writer.close()


def _events(numbers: range) -> str:
    now = time.monotonic_ns() // 1_000
    return "[" + ",".join(f'{{"n":"{n:010}","t":"{now:016}","p":"{PADDING}"}}' for n in numbers) + "]"


async def _stats(program: Program) -> dict[str, Any]:
    """What readers have seen so far; the line that says that they were ready at once may come before it."""
    found = await program.ask("stats", PATIENCE)
    while "up" not in found:
        found = await program.line(PATIENCE)
    return found
