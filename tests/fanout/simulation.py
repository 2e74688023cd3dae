"""One stream, and readers of all modes, whose every step is drawn by a seed.

The code under test is the real one, from the stream routes down to the tails. Readers behave as the protocol's clients
do: they go on from the last control event that came whole. In some runs the sending of a frame takes many turns of the
loop.
"""

from __future__ import annotations

import json
import random

from gateway.fanout.broadcast import BACKLOG, TURN, Broadcast
from gateway.http.limits import Limits
from gateway.http.stream_routes import StreamRoutes
from gateway.protocol.offset import format_offset
from gateway.protocol.target import Target
from tests.fanout.simulated import Connection, SimulatedLog, Sockets
from tests.fanout.world import Client, World

PATH = "runs/r"


class Reader(Client):
    """A client of one stream, in a mode; in mode "direct" the hub may write to its connection."""

    def __init__(self, mode: str, routes: StreamRoutes, log: SimulatedLog, sockets: Sockets) -> None:
        super().__init__(log.rng, sockets)
        self.mode = mode
        self.start: int | None = None  # position: somewhere in what there is when it comes
        self.given: list[int] = []
        self.offset = b"-1"
        self._routes = routes
        self._log = log
        self._asked: tuple[int, bool] = (0, False)  # the log's tail and whether it was closed, when it was asked

    def begin(self) -> None:
        if self.start is None:
            self.start = self.rng.choice((0, self.rng.randint(0, len(self._log.events))))
            self.offset = b"-1" if not self.start else format_offset(self.start)
        self._asked = (len(self._log.events), self._log.closed)

    async def ask(self, connection: Connection) -> None:
        live = {"long-poll": b"&live=long-poll", "plain": b""}.get(self.mode, b"&live=sse")
        query = b"offset=%b%b" % (self.offset, live)
        scope = self.scope("/" + PATH, query, [], connection if self.mode == "direct" else None)
        await self._routes(Target.of("/" + PATH), scope, connection.receive, connection.answer)

    def take_in(self, connection: Connection) -> None:
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


class Simulation(World[Reader]):
    """Everything together; `run` draws a number of steps and then lets it come to rest."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.log = SimulatedLog(rng, PATH)
        super().__init__(rng, self.log, self._broadcast)
        if self.rng.random() < 0.2:
            self.hub.published = self._published
        routes = StreamRoutes(self.log, self.hub, Limits(1 << 20, 5, 20, pages=300), now=lambda: 0)  # type: ignore[arg-type]
        modes = self.rng.choice((("direct",), ("direct", "pull", "long-poll", "plain")))
        self.readers = [
            Reader(self.rng.choice(modes), routes, self.log, self.sockets) for _ in range(self.rng.randint(1, 6))
        ]

    def _broadcast(self, sockets: Sockets) -> Broadcast:
        return Broadcast(
            sockets,
            many=self.log.rng.choice((1, 2, 3, 100)),
            turn=self.log.rng.choice((1, 20_000, TURN)),
            backlog=self.log.rng.choice((0, 300, BACKLOG)),
        )

    async def run(self, steps: int) -> None:
        actions = [
            self._append, self._append, self._tell, self._tell, self.log.answer, self.log.answer, self.log.answer,
            self.connect, self.connect, self._lose, self._repeat, self.sweep, self.wait, self.fill, self.empty,
            self.cut, self.trouble, self.drain,
        ]  # fmt: skip
        await self.draw(steps, actions)
        if not self.log.closed:
            self.log.append(self.rng.randint(0, 2), close=True)
        await self.rest(400, 6)

    def _published(self, *_: object) -> None:
        if self.rng.random() < 0.5:
            raise RuntimeError("it cannot be traced")

    def _append(self) -> None:
        if not self.log.closed:
            self.log.append(self.rng.randint(1, 3), close=self.rng.random() < 0.03)

    def _tell(self) -> None:
        self.tell(self.log.news)

    def _lose(self) -> None:
        if self.log.news:
            self.log.news.pop(0)

    def _repeat(self) -> None:
        if self.log.news:
            self.hub.ring(self.rng.choice(self.log.news))
