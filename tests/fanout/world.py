"""What a simulation goes on in: a hub over a source of streams, its clients, and what may happen to them. News is late,
doubled, out of order or lost; the clock only moves when told to.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Generic, Protocol, TypeVar

from gateway.asgi import Scope
from gateway.auth.gate import let_in
from gateway.fanout.broadcast import Broadcast
from gateway.fanout.follower import EXTENSION
from gateway.fanout.hub import Hub
from gateway.fanout.single_flight import Read
from gateway.protocol.batch import News
from gateway.protocol.errors import ProtocolError, Unavailable
from tests.fanout.simulated import FAULTS, Connection, Sockets


class Client:
    """A client that reads until it is told the end, reconnecting as often as need be: `ask` makes a request, `take_in`
    reads what a response that is over has left.
    """

    def __init__(self, rng: random.Random, sockets: Sockets) -> None:
        self.rng = rng
        self.ended = False
        self.connection: Connection | None = None
        self._sockets = sockets
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
            self.take_in(self.connection)
        if not self.ended:
            self.begin()
            self.connection = Connection(self.rng)
            self.connection.aborted = self._sockets.lose
            self.connection.fragile = self._sockets.fragile and self.rng.random() < 0.5
            self._sockets.add(self.connection)
            self._task = asyncio.ensure_future(self._request(self.connection))

    def begin(self) -> None:
        """It is about to connect."""

    async def ask(self, connection: Connection) -> None:
        raise NotImplementedError

    def take_in(self, connection: Connection) -> None:
        raise NotImplementedError

    def scope(
        self, path: str, query: bytes, headers: Sequence[tuple[bytes, bytes]], direct: Connection | None
    ) -> Scope:
        """A GET. `direct`: the hub may write to this connection."""
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "client": ("127.0.0.1", 1),
            "headers": headers,
            "query_string": query,
        }
        if direct is not None:
            scope["extensions"] = {EXTENSION: direct}
        let_in(scope)
        return scope

    async def _request(self, connection: Connection) -> None:
        try:
            await self.ask(connection)
        except FAULTS:
            connection.cut(connection.rng)  # as uvicorn does when a handler raises
        except ProtocolError:
            if connection.status:
                raise  # a refusal after the response had begun could never reach the client


class Source(Protocol):
    """Whose streams are read: a log, or several."""

    away: bool

    @property
    def live(self) -> Read: ...
    async def positions(self, paths: Iterable[str]) -> dict[str, tuple[int, int, bool]]: ...
    async def touch(self, paths: Iterable[str]) -> None: ...
    def answer(self) -> None: ...


C = TypeVar("C", bound=Client)


class World(Generic[C]):
    """A hub over a source, and what may happen to its readers' connections, its clock and its log."""

    def __init__(self, rng: random.Random, source: Source, broadcast: Callable[[Sockets], Broadcast]) -> None:
        self.rng = rng
        self.time = 1000.0
        self.source = source
        self.sockets = Sockets(rng)
        self.hub = Hub(
            read=source.live,
            positions=source.positions,
            touch=source.touch,
            now=lambda: 1_800_000_000 + self.time,
            clock=lambda: self.time,
            heartbeat=15,
            sweep_interval=lambda: 1,
            broadcast=broadcast(self.sockets),
        )
        self.readers: list[C] = []
        self._sweeps: set[asyncio.Task[None]] = set()

    async def draw(self, steps: int, actions: Sequence[Callable[[], None]]) -> None:
        """So many of these actions, with some turns of the loop between two."""
        for _ in range(steps):
            self.rng.choice(actions)()
            await self._settle(self.rng.randint(0, 4))

    async def rest(self, rounds: int, turns: int) -> None:
        """No more faults: whoever reads has to come to the end by itself."""
        self.source.away = False
        self.hub.deadlines.draining = False
        for _ in range(rounds):
            for reader in self.readers:
                if reader.connection is not None:
                    reader.connection.empty()
                reader.step()
            self.answer_all()
            self.sweep()
            self.time += 0.3
            self.hub.tick()
            await self._settle(turns)
            if all(reader.ended for reader in self.readers):
                break
        for task in self._sweeps:
            task.cancel()

    async def _settle(self, turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    def answer_all(self) -> None:
        """A read of each stream comes back."""
        self.source.answer()

    def tell(self, news: list[News]) -> None:
        """One of these is heard, mostly the first; or some of them together."""
        with self.hub.together() if self.rng.random() < 0.5 else nullcontext():
            for _ in range(min(len(news), self.rng.randint(1, 3))):
                self.hub.ring(news.pop(0 if self.rng.random() < 0.8 else self.rng.randrange(len(news))))

    def connect(self) -> None:
        self.rng.choice(self.readers).step()

    def _connection(self) -> Connection | None:
        return self.rng.choice(self.readers).connection

    def fill(self) -> None:
        if (connection := self._connection()) is not None:
            connection.fill()

    def empty(self) -> None:
        if (connection := self._connection()) is not None:
            connection.empty()

    def cut(self) -> None:
        if (connection := self._connection()) is not None and not connection.cut_off:
            connection.cut(self.rng)
            self.sockets.lose(connection)

    def sweep(self) -> None:
        task = asyncio.ensure_future(self._swept())
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def _swept(self) -> None:
        try:
            await self.hub.sweep()
        except Unavailable:
            return

    def wait(self) -> None:
        """Time passes."""
        self.time += self.rng.choice((0.3, 3, 16))
        self.hub.tick()

    def trouble(self) -> None:
        self.source.away = self.rng.random() < 0.3

    def drain(self) -> None:
        if self.rng.random() < 0.2:
            self.hub.drain(1)
            self.hub.deadlines.draining = False  # and another Machine, which looks just like it, takes over
