"""A log, a network and readers in memory, whose every step is drawn by a seed.

The code under test is the real one, from the stream routes down to the tails. What is simulated around it: a log
whose reads take their snapshot early or late; news that is late, doubled, out of order or lost; sockets that fill
up, drain and are cut in the middle of a frame; a clock that only moves when told to. Readers behave as the
protocol's clients do: they go on from the last control event that came whole. In some runs connections raise, from
any of their methods, what none should; io_uring breaks off; and the sending of a frame takes many turns of the loop.
"""

from __future__ import annotations

import asyncio
import json
import random
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gateway.asgi import Message, Scope
from gateway.auth.gate import let_in
from gateway.fanout.broadcast import BACKLOG, TURN, Broadcast
from gateway.fanout.follower import EXTENSION, Receiver
from gateway.fanout.hub import Hub
from gateway.fanout.uring import BrokenOff
from gateway.http.limits import Limits
from gateway.http.stream_routes import StreamRoutes
from gateway.protocol.batch import Batch, News, Page, Stream
from gateway.protocol.errors import ProtocolError, Unavailable
from gateway.protocol.offset import format_offset
from gateway.protocol.target import Target

PATH = "runs/r"
FAULTS = (RuntimeError, TypeError, LookupError, MemoryError)  # what a connection may raise, and should not


class SimulatedLog:
    """One stream in memory, with the reads of gateway.log.reader; `page_events` bounds a page."""

    def __init__(self, rng: random.Random, path: str = PATH, id: int = 1) -> None:
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
        if self._breaks_off and self._rng.random() < 0.1:
            return self._break_off(fds, data)
        short = {}
        for place, fd in enumerate(fds):
            sent = self._take(fd, data)
            if sent < len(data):
                short[place] = sent
        return short

    def _take(self, fd: int, data: bytes) -> int:
        try:
            return self._open[fd].take(data)
        except (KeyError, OSError):
            return 0

    def _break_off(self, fds: array[int], data: bytes) -> dict[int, int]:
        """Fails on its way: of some it is not known whether they were sent anything."""
        if self._rng.random() < 0.2:
            raise OSError("nobody knows what was sent to whom")
        known = self._rng.randint(0, len(fds))
        taken = self._rng.randint(known, len(fds))
        short = self.send(fds[:known], data) if known else {}
        for fd in fds[known:taken]:
            if self._rng.random() < 0.5:
                self._take(fd, data)
        raise BrokenOff(short, known, taken)

    def close(self) -> None:
        pass


class Reader:
    """A client: reads in its mode until it is told that the run has ended, reconnecting as often as need be."""

    def __init__(self, mode: str, routes: StreamRoutes, log: SimulatedLog, sockets: Sockets) -> None:
        self.mode = mode
        self.start: int | None = None  # position: somewhere in what there is when it comes
        self.given: list[int] = []
        self.offset = b"-1"
        self.ended = False
        self.connection: Connection | None = None
        self._routes = routes
        self._log = log
        self._sockets = sockets
        self._asked: tuple[int, bool] = (0, False)  # the log's tail and whether it was closed, when it was asked
        self._task: asyncio.Task[None] | None = None

    def step(self) -> None:
        """Connects when it is not connected; takes in what a response that is over has left."""
        if self._task is not None:
            if not self._task.done():
                return
            self._task.result()
            self._task = None
            assert self.connection is not None
            self._sockets.lose(self.connection)
            self._take_in()
        if self.start is None:
            self.start = self._log.rng.choice((0, self._log.rng.randint(0, len(self._log.events))))
            self.offset = b"-1" if not self.start else format_offset(self.start)
        if not self.ended:
            self._asked = (len(self._log.events), self._log.closed)
            self.connection = Connection(self._log.rng)
            self.connection.aborted = self._sockets.lose
            self.connection.fragile = self._sockets.fragile and self._log.rng.random() < 0.5
            self._sockets.add(self.connection)
            self._task = asyncio.ensure_future(self._request(self.connection))

    async def _request(self, connection: Connection) -> None:
        live = {"long-poll": b"&live=long-poll", "plain": b""}.get(self.mode, b"&live=sse")
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/" + PATH,
            "headers": [],
            "query_string": b"offset=%b%b" % (self.offset, live),
        }
        if self.mode == "direct":
            scope["extensions"] = {EXTENSION: connection}
        try:
            let_in(scope)
            await self._routes(Target.of("/" + PATH), scope, connection.receive, connection.answer)
        except FAULTS:
            connection.cut(connection.rng)  # as uvicorn does when a handler raises
        except ProtocolError:
            if connection.status:
                raise  # a refusal after the response had begun could never reach the client

    def _take_in(self) -> None:
        connection = self.connection
        assert connection is not None
        if self.mode in ("long-poll", "plain"):
            if connection.cut_off:
                return  # a response that did not come whole is none
            if connection.status in (200, 204):
                if connection.status == 200:
                    self.given += [event["n"] for event in json.loads(bytes(connection.received))]
                self.offset = connection.headers[b"stream-next-offset"]
                self.ended = connection.headers.get(b"stream-closed") == b"true"
                if self.mode == "plain":
                    self._check_fresh(connection)
            return
        waiting: list[int] = []
        for block in bytes(connection.received).split(b"\n\n")[:-1]:  # what follows the last blank line is cut off
            fields = dict(line.split(b":", 1) for line in block.split(b"\n") if not line.startswith(b":"))
            if fields.get(b"event") == b" data":
                waiting = [event["n"] for event in json.loads(fields[b"data"])]
                assert fields[b"id"].endswith(b"%016d" % waiting[-1]), "an id is the offset after its data"
            elif fields.get(b"event") == b" control":
                control = json.loads(fields[b"data"])
                self.given += waiting  # data counts once its control event has come
                waiting = []
                self.offset = control["streamNextOffset"].encode()
                self.ended = control.get("streamClosed", False)

    def _check_fresh(self, connection: Connection) -> None:
        """Whoever has written, and then asks, is shown what he wrote."""
        tail, closed = self._asked
        if connection.headers.get(b"stream-up-to-date") == b"true":
            assert self.offset >= format_offset(tail), "everything that was acknowledged before it was asked"
            assert self.ended or not closed


class Simulation:
    """Everything together; `run` draws a number of steps and then lets it come to rest."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.time = 1000.0
        self.log = SimulatedLog(self.rng)
        self.sockets = Sockets(self.rng)
        self.hub = Hub(
            read=self.log.live,
            positions=self.log.positions,
            touch=self.log.touch,
            now=lambda: 1_800_000_000 + self.time,
            clock=lambda: self.time,
            heartbeat=15,
            sweep_interval=lambda: 1,
            broadcast=Broadcast(
                self.sockets,
                many=self.rng.choice((1, 2, 3, 100)),
                turn=self.rng.choice((1, 20_000, TURN)),
                backlog=self.rng.choice((0, 300, BACKLOG)),
            ),
        )
        if self.rng.random() < 0.2:
            self.hub.published = self._published
        routes = StreamRoutes(self.log, self.hub, Limits(1 << 20, 5, 20, pages=300), now=lambda: 0)  # type: ignore[arg-type]
        modes = self.rng.choice((("direct",), ("direct", "pull", "long-poll", "plain")))
        self.readers = [
            Reader(self.rng.choice(modes), routes, self.log, self.sockets) for _ in range(self.rng.randint(1, 6))
        ]
        self._sweeps: set[asyncio.Task[None]] = set()

    async def run(self, steps: int) -> None:
        actions: list[Callable[[], None]] = [
            self._append, self._append, self._tell, self._tell, self.log.answer, self.log.answer, self.log.answer,
            self._connect, self._connect, self._lose, self._repeat, self._sweep, self._pass, self._fill, self._empty,
            self._cut, self._trouble, self._drain,
        ]  # fmt: skip
        for _ in range(steps):
            self.rng.choice(actions)()
            await self._settle(self.rng.randint(0, 4))
        if not self.log.closed:
            self.log.append(self.rng.randint(0, 2), close=True)
        await self._rest()

    async def _rest(self) -> None:
        """No more faults: whoever reads has to come to the end by itself."""
        self.log.away = False
        self.hub.deadlines.draining = False
        for _ in range(400):
            self._empty_all()
            self._connect_all()
            self.log.answer()
            self._sweep()
            self.time += 0.3
            self.hub.tick()
            await self._settle(6)
            if all(reader.ended for reader in self.readers):
                break
        for task in self._sweeps:
            task.cancel()

    def _published(self, *_: object) -> None:
        if self.rng.random() < 0.5:
            raise RuntimeError("it cannot be traced")

    async def _settle(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    def _append(self) -> None:
        if not self.log.closed:
            self.log.append(self.rng.randint(1, 3), close=self.rng.random() < 0.03)

    def _tell(self) -> None:
        if self.log.news:
            index = 0 if self.rng.random() < 0.8 else self.rng.randrange(len(self.log.news))
            self.hub.ring(self.log.news.pop(index))

    def _lose(self) -> None:
        if self.log.news:
            self.log.news.pop(0)

    def _repeat(self) -> None:
        if self.log.news:
            self.hub.ring(self.rng.choice(self.log.news))

    def _connect(self) -> None:
        self.rng.choice(self.readers).step()

    def _connect_all(self) -> None:
        for reader in self.readers:
            reader.step()

    def _connection(self) -> Connection | None:
        return self.rng.choice(self.readers).connection

    def _fill(self) -> None:
        if (connection := self._connection()) is not None:
            connection.fill()

    def _empty(self) -> None:
        if (connection := self._connection()) is not None:
            connection.empty()

    def _empty_all(self) -> None:
        for reader in self.readers:
            if reader.connection is not None:
                reader.connection.empty()

    def _cut(self) -> None:
        if (connection := self._connection()) is not None and not connection.cut_off:
            connection.cut(self.rng)
            self.sockets.lose(connection)

    def _sweep(self) -> None:
        task = asyncio.ensure_future(self._swept())
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def _swept(self) -> None:
        try:
            await self.hub.sweep()
        except Unavailable:
            return

    def _pass(self) -> None:
        self.time += self.rng.choice((0.3, 3, 16))
        self.hub.tick()

    def _trouble(self) -> None:
        self.log.away = self.rng.random() < 0.3

    def _drain(self) -> None:
        if self.rng.random() < 0.2:
            self.hub.drain(1)
            self.hub.deadlines.draining = False  # and another Machine, which looks just like it, takes over
