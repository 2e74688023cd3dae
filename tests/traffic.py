"""Writers and readers that behave as the protocol asks and move between Machines, for tests over real sockets.

A reader keeps exactly what it was given. Whatever cuts it off, it goes on from its last offset at the next Machine;
what it must never see is told by `given` at the end: a gap, a repeat, another order, an early end.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

from run_gateway.sse import Steps

MODES = ("sse", "long-poll", "catch-up")
_PASSING = (429, 503)


class Reader:
    """Reads one stream to its end, through `urls` in turn; `given` are the events' numbers."""

    def __init__(self, mode: str, path: str, urls: Sequence[str], patience: float = 40) -> None:
        self.mode = mode
        self.given: list[int] = []
        self.offset = "-1"
        self.connections = 0
        self._path = path
        self._urls = list(urls)
        self._patience = patience
        self._progress = asyncio.Condition()

    async def run(self) -> list[int]:
        """Until the stream says that it is closed; everything that was given."""
        step = {"sse": self._sse, "long-poll": self._poll, "catch-up": self._poll}[self.mode]
        async with httpx.AsyncClient(timeout=httpx.Timeout(self._patience, connect=2)) as http:
            while True:
                self.connections += 1
                try:
                    if await step(http, self._urls[0] + self._path):
                        return self.given
                except httpx.RequestError:
                    self._urls.append(self._urls.pop(0))
                    await asyncio.sleep(0.05)  # a client's own pause before it connects again

    async def reached(self, count: int) -> None:
        """Returns once so many events were given."""
        async with self._progress:
            await self._progress.wait_for(lambda: len(self.given) >= count)

    async def _sse(self, http: httpx.AsyncClient, url: str) -> bool:
        parse = Steps()
        async with http.stream("GET", url, params={"offset": self.offset, "live": "sse"}) as response:
            if response.status_code in _PASSING:
                raise httpx.ConnectError("not now")
            assert response.status_code == 200, response.status_code
            async for chunk in response.aiter_bytes():
                for step in parse.feed(chunk):
                    for data in step.data:
                        await self._take(data)
                    self.offset = step.offset
                    if step.closed:
                        return True
        return False

    async def _poll(self, http: httpx.AsyncClient, url: str) -> bool:
        live = {"live": "long-poll"} if self.mode == "long-poll" else {}
        response = await http.get(url, params={"offset": self.offset, **live})
        if response.status_code in _PASSING:
            raise httpx.ConnectError("not now")
        assert response.status_code in (200, 204), response.text
        if response.content:
            await self._take(response.text)
        self.offset = response.headers["stream-next-offset"]
        if not live and "stream-up-to-date" in response.headers:
            await asyncio.sleep(0.02)  # whoever polls does so now and then
        closed: bool = response.headers.get("stream-closed") == "true"
        return closed

    async def _take(self, data: str) -> None:
        async with self._progress:
            self.given += [event["n"] for event in json.loads(data)]
            self._progress.notify_all()


class Writer:
    """An idempotent producer of numbered events, which tries the next Machine when one does not answer."""

    def __init__(self, path: str, urls: Sequence[str], producer: str = "writer") -> None:
        self.acknowledged = 0
        self._path = path
        self._urls = list(urls)
        self._producer = producer
        self._seq = 0

    async def create(self) -> None:
        async with httpx.AsyncClient() as http:
            response = await http.put(self._urls[0] + self._path, headers={"content-type": "application/json"})
            assert response.status_code == 201

    async def write(self, count: int, *, pause: float = 0.0, close: bool = True) -> None:
        """Events one by one, each sent until it is acknowledged; the last one closes the stream."""
        end = self.acknowledged + count
        async with httpx.AsyncClient(timeout=httpx.Timeout(40, connect=2)) as http:
            for n in range(self.acknowledged + 1, end + 1):
                await self._append(http, n, last=close and n == end)
                self.acknowledged = n
                await asyncio.sleep(pause)

    async def _append(self, http: httpx.AsyncClient, n: int, *, last: bool) -> None:
        headers = {
            "content-type": "application/json",
            "producer-id": self._producer,
            "producer-epoch": "0",
            "producer-seq": str(self._seq),
        }
        if last:
            headers["stream-closed"] = "true"
        for _ in range(600):
            try:
                response = await http.post(self._urls[0] + self._path, headers=headers, content=b'{"n":%d}' % n)
            except httpx.RequestError:
                response = None
            if response is not None and response.status_code in (200, 204):
                self._seq += 1
                return
            assert response is None or response.status_code in _PASSING, response.text
            self._urls.append(self._urls.pop(0))
            await asyncio.sleep(0.05)
        raise TimeoutError(f"event {n} was not acknowledged")


@asynccontextmanager
async def under_way(
    writer: Writer, readers: Sequence[Reader], events: int, *, pause: float, after: int = 50
) -> AsyncIterator[None]:
    """A stream that is being written and read: the block begins when every reader was given `after` events.

    When it has ended, the writer goes on to the last of its `events`, and every reader must be given all of them.
    """
    async with asyncio.TaskGroup() as tasks:
        for reader in readers:
            tasks.create_task(reader.run())
        tasks.create_task(writer.write(events, pause=pause))
        for reader in readers:
            await reader.reached(after)
        yield
    for reader in readers:
        assert reader.given == list(range(1, events + 1)), reader.mode
