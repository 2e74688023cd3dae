"""The simulation with many streams, whose readers follow several of them over one connection each.

What a reader takes in is what an EventSource would: the frames that came whole, of which the last one's id is where it
goes on. Streams are deleted, too: then that is their last word.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable

from gateway.asgi import Scope
from gateway.auth.gate import let_in
from gateway.auth.principal import ANONYMOUS
from gateway.fanout.follower import EXTENSION
from gateway.fanout.hub import Hub
from gateway.http.following import Following
from gateway.http.limits import Limits
from gateway.protocol.batch import News, Page, Stream
from gateway.protocol.errors import ProtocolError, StreamNotFound, Unavailable
from gateway.protocol.offset import format_offset
from tests.fanout.simulation import FAULTS, Connection, SimulatedLog, Sockets


class Logs:
    """Streams by their paths, as `gateway.log.reader` reads them. Of some there is nothing any more."""

    def __init__(self, rng: random.Random, count: int) -> None:
        self.rng = rng
        self.streams = {f"runs/{n}": SimulatedLog(rng, f"runs/{n}", n + 1) for n in range(count)}
        self.deleted: set[str] = set()
        self.away = False

    async def live(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page:
        if path in self.deleted:
            raise StreamNotFound
        log = self.streams[path]
        log.away = self.away
        page = await log.live(path, position, last_events=last_events, recent=recent)
        if path in self.deleted:
            raise StreamNotFound
        return page

    async def positions(self, paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]:
        return {path: (stream.id, stream.tail, stream.closed) for path, stream in self._all(paths).items()}

    async def look(self, paths: list[str]) -> dict[str, Stream | None]:
        early = self._all(paths)
        await asyncio.sleep(0)
        return dict(early if self.rng.random() < 0.5 else self._all(paths))

    def _all(self, paths: Iterable[str]) -> dict[str, Stream]:
        if self.away:
            raise Unavailable
        return {path: self.streams[path].stream for path in paths if path not in self.deleted}

    async def touch(self, paths: Iterable[str]) -> None:
        return None

    def answer(self) -> None:
        self.rng.choice(list(self.streams.values())).answer()


class ReaderOfMany:
    """A client: follows its streams until it was told the end of each, reconnecting as often as need be."""

    def __init__(self, following: Following, logs: Logs, sockets: Sockets) -> None:
        self.paths = logs.rng.sample(sorted(logs.streams), logs.rng.randint(1, len(logs.streams)))
        self.given: dict[str, list[int]] = {path: [] for path in self.paths}
        self.over: dict[str, str] = {}  # the last word of each
        self.id = b""
        self.ended = False
        self.connections = 0
        self.connection: Connection | None = None
        self._following = following
        self._logs = logs
        self._sockets = sockets
        self._direct = logs.rng.random() < 0.7
        self._task: asyncio.Task[None] | None = None

    def step(self) -> None:
        if self._task is not None:
            if not self._task.done():
                return
            self._task.result()
            self._task = None
            assert self.connection is not None
            self._sockets.lose(self.connection)
            self._take_in(self.connection)
        if not self.ended:
            rng = self._logs.rng
            self.connections += 1
            self.connection = Connection(rng)
            self.connection.aborted = self._sockets.lose
            self.connection.fragile = self._sockets.fragile and rng.random() < 0.5
            self._sockets.add(self.connection)
            self._task = asyncio.ensure_future(self._request(self.connection))

    async def _request(self, connection: Connection) -> None:
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/v1/stream",
            "client": ("127.0.0.1", 1),
            "headers": [(b"last-event-id", self.id)] if self.id else [],
            "query_string": "&".join(["live=sse", *(f"stream={path}" for path in self.paths)]).encode(),
        }
        if self._direct:
            scope["extensions"] = {EXTENSION: connection}
        try:
            let_in(scope)
            await self._following(scope, connection.receive, connection.answer)
        except FAULTS:
            connection.cut(connection.rng)
        except ProtocolError:
            if connection.status:
                raise  # a refusal after the response had begun could never reach the client

    def _take_in(self, connection: Connection) -> None:
        if connection.status == 204:
            self.ended = True
            return
        for block in bytes(connection.received).split(b"\n\n")[:-1]:
            lines = [line.split(b":", 1) for line in block.split(b"\n") if not line.startswith(b":")]
            data = b"\n".join(value for name, value in lines if name == b"data")
            if not data:
                continue
            for part in json.loads(data):
                self._hear(part["stream"], part)
            self.id = dict(lines)[b"id"].strip()

    def _hear(self, path: str, part: dict[str, object]) -> None:
        assert path not in self.over, "nothing comes after a stream's last word"
        events = part.get("events", [])
        assert isinstance(events, list)
        self.given[path] += [event["n"] for event in events]
        if "streamNextOffset" in part:
            assert part["streamNextOffset"] == format_offset(len(self.given[path])).decode(), (
                "an offset is after its events"
            )
        if "error" in part:
            self.over[path] = "error"
        elif part.get("streamClosed"):
            self.over[path] = "closed"


class SimulationOfMany:
    """Everything together; `run` draws a number of steps and then lets it come to rest."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.time = 1000.0
        self.logs = Logs(self.rng, self.rng.choice((2, 3, 9)))
        self.sockets = Sockets(self.rng)
        self.hub = Hub(
            read=self.logs.live,
            positions=self.logs.positions,
            touch=self.logs.touch,
            now=lambda: 1_800_000_000 + self.time,
            clock=lambda: self.time,
            heartbeat=15,
            sweep_interval=lambda: 1,
        )
        self.limits = Limits(1 << 20, 5, self.rng.choice((20, 10_000)))
        following = Following(
            self.hub, self.logs.look, self.limits, lambda *_: ANONYMOUS, self.rng.choice((0.001, 60)), lambda: 0
        )
        self.readers = [ReaderOfMany(following, self.logs, self.sockets) for _ in range(self.rng.randint(1, 4))]
        self._sweeps: set[asyncio.Task[None]] = set()

    async def run(self, steps: int) -> None:
        actions: list[Callable[[], None]] = [
            self._append, self._append, self._append, self._tell, self._tell, self._tell, self.logs.answer,
            self.logs.answer, self.logs.answer, self.logs.answer, self._connect, self._connect, self._lose, self._sweep,
            self._pass, self._fill, self._empty, self._empty, self._cut, self._trouble, self._drain, self._delete,
        ]  # fmt: skip
        for _ in range(steps):
            self.rng.choice(actions)()
            await self._settle(self.rng.randint(0, 4))
        for log in self.logs.streams.values():
            if not log.closed:
                log.append(self.rng.randint(0, 2), close=True)
        await self._rest()

    async def _rest(self) -> None:
        """No more faults: whoever reads has to come to the end by itself."""
        self.logs.away = False
        self.hub.deadlines.draining = False
        for reader in self.readers:
            reader.connections = 0
        for _ in range(600):
            for reader in self.readers:
                if reader.connection is not None:
                    reader.connection.empty()
                reader.step()
            for log in self.logs.streams.values():
                log.answer()
            self._sweep()
            self.time += 0.3
            self.hub.tick()
            await self._settle(8)
            if all(reader.ended for reader in self.readers):
                break
        for task in self._sweeps:
            task.cancel()

    async def _settle(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    def _log(self) -> SimulatedLog:
        return self.rng.choice(list(self.logs.streams.values()))

    def _append(self) -> None:
        log = self._log()
        if not log.closed and log.path not in self.logs.deleted:
            log.append(self.rng.randint(1, 3), close=self.rng.random() < 0.05)

    def _tell(self) -> None:
        log = self._log()
        if log.news:
            self.hub.ring(log.news.pop(0 if self.rng.random() < 0.8 else self.rng.randrange(len(log.news))))

    def _lose(self) -> None:
        log = self._log()
        if log.news:
            log.news.pop(0)

    def _delete(self) -> None:
        if self.rng.random() < 0.1:
            path = self._log().path
            self.logs.deleted.add(path)
            if self.rng.random() < 0.5:
                self.hub.ring(News(path, 0, 0, deleted=True))

    def _connect(self) -> None:
        self.rng.choice(self.readers).step()

    def _connection(self) -> Connection | None:
        return self.rng.choice(self.readers).connection

    def _fill(self) -> None:
        if (connection := self._connection()) is not None:
            connection.fill()

    def _empty(self) -> None:
        if (connection := self._connection()) is not None:
            connection.empty()

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
        self.logs.away = self.rng.random() < 0.3

    def _drain(self) -> None:
        if self.rng.random() < 0.2:
            self.hub.drain(1)
            self.hub.deadlines.draining = False
