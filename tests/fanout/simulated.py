"""A log and connections in memory, whose every step is drawn by a seed: a log whose reads take their snapshot early or
late, news, and sockets that fill up, drain and are cut in the middle of a frame. In some runs connections raise, from
any of their methods, what none should; io_uring breaks off.
"""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from gateway.asgi import Message
from gateway.fanout.follower import Receiver
from gateway.fanout.uring import BrokenOff
from gateway.protocol.batch import Batch, News, Page, Stream
from gateway.protocol.errors import Unavailable

FAULTS = (RuntimeError, TypeError, LookupError, MemoryError)  # what a connection may raise, and should not


class SimulatedLog:
    """One stream in memory, with the reads of gateway.log.reader; `page_events` bounds a page."""

    def __init__(self, rng: random.Random, path: str, id: int = 1) -> None:
        self.rng = rng
        self.path = path
        self.id = id
        self.events: list[bytes] = []
        self.closed = False
        self.page_events = rng.choice((1, 3, 1000))
        self.news: list[News] = []
        self.away = False
        self.reads = 0
        self.spared = 0  # pages that were in memory still
        self._pending: list[asyncio.Future[None]] = []

    def append(self, count: int, *, close: bool = False) -> None:
        first = len(self.events) + 1
        new = [b'{"n":%d}' % n for n in range(first, first + count)]
        self.events += new
        self.closed = self.closed or close
        body = b",".join(new) if self.rng.random() < 0.8 else None
        self.news.append(News(self.path, first, len(self.events), self.closed, body=body))

    @property
    def stream(self) -> Stream:
        return Stream(self.id, self.path, "application/json", len(self.events), self.closed)

    def snapshot(self, position: int, start: int | None = None) -> Page:
        tail = len(self.events)
        end = max(position, min(position + self.page_events, tail))
        at_tail = end >= tail
        start = position if start is None else start
        events = self.events[start:end]
        lengths = [len(event) for event in events]
        batch = Batch(start, end, b",".join(events), at_tail, at_tail and self.closed, lengths)
        return Page(self.stream, batch)

    async def read(
        self, path: str, position: int, *, last_events: int | None = None, known: Page | None = None
    ) -> Page:
        if last_events is not None:
            position = max(len(self.events) - last_events, 0)
        self.reads += 1
        page = await self._answered(lambda: self.snapshot(position))
        if known is None:
            return page
        batch = known.batch
        assert batch.start == position, "a page is known by where it begins"
        if batch.end == page.stream.tail or (not batch.up_to_date and batch.end < page.stream.tail):
            fresh = batch.end == page.stream.tail
            self.spared += 1
            return Page(page.stream, Batch(position, batch.end, batch.body, fresh, fresh and page.stream.closed))
        return page

    async def live(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page:
        self.reads += 1
        if last_events is not None:
            position = max(len(self.events) - last_events, 0)
        back = self.rng.randint(0, 5) if recent and position <= len(self.events) else 0
        return await self._answered(lambda: self.snapshot(position, max(position - back, 0)))

    async def _answered(self, look: Callable[[], Page]) -> Page:
        """What the log shows when it is asked, or when it answers, or in between."""
        early = look() if self.rng.random() < 0.5 else None
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(answered)
        await answered
        if self.away:
            raise Unavailable
        return early or look()

    def answer(self) -> None:
        """One of the reads that are under way comes back."""
        if self._pending:
            answered = self._pending.pop(self.rng.randrange(len(self._pending)))
            if not answered.done():
                answered.set_result(None)

    async def positions(self, paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        if self.away:
            raise Unavailable
        return {self.path: (self.id, len(self.events), self.closed)}

    async def touch(self, paths: Iterable[str]) -> None:
        return None


@dataclass
class Connection:
    """A socket with a reader at its other end; in mode "direct" the hub may write to it."""

    rng: random.Random
    received: bytearray = field(default_factory=bytearray)
    follower: Receiver | None = None
    full: bool = False
    cut_off: bool = False
    descriptor: int = -1
    fragile: bool = False  # any of its methods may raise, which no connection should
    aborted: Callable[[Connection], None] = field(default=lambda _: None)
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    _chunks: bytearray = field(default_factory=bytearray)
    _drained: asyncio.Event = field(default_factory=asyncio.Event)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    def fault(self) -> None:
        if self.fragile and self.rng.random() < 0.1:
            raise self.rng.choice(FAULTS)

    def send(self, data: bytes) -> int:
        self.fault()
        sent = self.take(data)
        self.fault()
        return sent

    def take(self, data: bytes) -> int:
        """As a socket does: now and then it takes a part, or nothing and says so."""
        assert not self.full or self.cut_off, "what is buffered must not be overtaken"
        if self.cut_off:
            raise BrokenPipeError
        sent = len(data)
        if self.rng.random() < 0.1:
            sent = self.rng.randrange(sent)
            if not sent:
                raise BlockingIOError
        self._chunks += data[:sent]
        self._unframe()
        return sent

    def write(self, data: bytes | memoryview) -> None:
        self.fault()
        if not self.cut_off:
            self._chunks += data
            self._unframe()
            self.fill()
        self.fault()

    def _unframe(self) -> None:
        """Takes the chunks out of their framing, as far as they are whole; what is cut is of no use to a client."""
        while (head := self._chunks.find(b"\r\n")) > 0:
            end = head + 2 + int(self._chunks[:head], 16)
            if len(self._chunks) < end + 2:
                return
            self.received += self._chunks[head + 2 : end]
            del self._chunks[: end + 2]

    def lost(self) -> bool:
        self.fault()
        return self.cut_off

    def fileno(self) -> int:
        self.fault()
        return self.descriptor

    def writable(self) -> bool:
        self.fault()
        return not self.full or self.cut_off

    def abort(self) -> None:
        self.fault()
        self.cut(self.rng)
        self.aborted(self)

    async def drain(self) -> None:
        self.fault()
        await self.drained()

    async def drained(self) -> None:
        while self.full and not self.cut_off:
            self._drained.clear()
            await self._drained.wait()

    def fill(self) -> None:
        self.full = True
        if self.follower is not None:
            self.follower.wake()

    def empty(self) -> None:
        self.full = False
        self._drained.set()

    def cut(self, rng: random.Random) -> None:
        """The network goes; some of the last bytes never arrived."""
        del self.received[rng.randint(max(0, len(self.received) - 200), len(self.received)) :]
        self.cut_off = True
        self._drained.set()
        self._gone.set()
        if self.follower is not None:
            self.follower.end()

    async def receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def answer(self, message: Message) -> None:
        await self.drained()
        if self.cut_off:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
        else:
            self.received += message["body"]


class Sockets:
    """The open connections by descriptor, of which a new one gets the lowest that is free; and io_uring for them."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._open: dict[int, Connection] = {}
        self._breaks_off = rng.random() < 0.3
        self.fragile = rng.random() < 0.3  # some of the connections are

    def add(self, connection: Connection) -> None:
        connection.descriptor = next(fd for fd in range(len(self._open) + 1) if fd not in self._open)
        self._open[connection.descriptor] = connection

    def lose(self, connection: Connection) -> None:
        if self._open.pop(connection.descriptor, None) is not None:
            connection.descriptor = -1

    def send(self, fds: array[int], data: bytes) -> dict[int, int]:
        return self.send_each(fds, [data] * len(fds))

    def send_each(self, fds: array[int], frames: Sequence[bytes]) -> dict[int, int]:
        if self._breaks_off and self._rng.random() < 0.1:
            return self._break_off(fds, frames)
        short = {}
        for place, (fd, data) in enumerate(zip(fds, frames, strict=True)):
            sent = self._take(fd, data)
            if sent < len(data):
                short[place] = sent
        return short

    def _take(self, fd: int, data: bytes) -> int:
        try:
            return self._open[fd].take(data)
        except (KeyError, OSError):
            return 0

    def _break_off(self, fds: array[int], frames: Sequence[bytes]) -> dict[int, int]:
        """Fails on its way: of some it is not known whether they were sent anything."""
        if self._rng.random() < 0.2:
            raise OSError("nobody knows what was sent to whom")
        known = self._rng.randint(0, len(fds))
        taken = self._rng.randint(known, len(fds))
        short = self.send_each(fds[:known], frames[:known]) if known else {}
        for fd, data in zip(fds[known:taken], frames[known:taken], strict=True):
            if self._rng.random() < 0.5:
                self._take(fd, data)
        raise BrokenOff(short, known, taken)

    def close(self) -> None:
        pass
