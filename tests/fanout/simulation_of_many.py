"""The simulation with many streams, whose readers follow several of them over one connection each.

What a reader takes in is what an EventSource would: the frames that came whole, of which the last one's id is where it
goes on. Streams are deleted, too: then that is their last word.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable

from gateway.auth.principal import ANONYMOUS
from gateway.fanout.broadcast import Broadcast
from gateway.http.following import Following
from gateway.http.limits import Limits
from gateway.protocol.batch import News, Page, Stream
from gateway.protocol.errors import StreamNotFound, Unavailable
from gateway.protocol.offset import format_offset
from tests.fanout.simulated import Connection, SimulatedLog, Sockets
from tests.fanout.world import Client, World


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


class ReaderOfMany(Client):
    """A client that follows its streams until it was told the end of each."""

    def __init__(self, following: Following, logs: Logs, sockets: Sockets) -> None:
        super().__init__(logs.rng, sockets)
        self.paths = logs.rng.sample(sorted(logs.streams), logs.rng.randint(1, len(logs.streams)))
        self.given: dict[str, list[int]] = {path: [] for path in self.paths}
        self.over: dict[str, str] = {}  # the last word of each
        self.id = b""
        self.connections = 0
        self._following = following
        self._direct = logs.rng.random() < 0.7

    def begin(self) -> None:
        self.connections += 1

    async def ask(self, connection: Connection) -> None:
        query = "&".join(["live=sse", *(f"stream={path}" for path in self.paths)]).encode()
        headers = [(b"last-event-id", self.id)] if self.id else []
        scope = self.scope("/v1/stream", query, headers, connection if self._direct else None)
        await self._following(scope, connection.receive, connection.answer)

    def take_in(self, connection: Connection) -> None:
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


class SimulationOfMany(World[ReaderOfMany]):
    """Everything together; `run` draws a number of steps and then lets it come to rest."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.logs = Logs(rng, rng.choice((2, 3, 9)))
        super().__init__(rng, self.logs, Broadcast)
        self.limits = Limits(1 << 20, 5, self.rng.choice((20, 10_000)))
        following = Following(
            self.hub, self.logs.look, self.limits, lambda *_: ANONYMOUS, self.rng.choice((0.001, 60)), lambda: 0
        )
        self.readers = [ReaderOfMany(following, self.logs, self.sockets) for _ in range(self.rng.randint(1, 4))]

    async def run(self, steps: int) -> None:
        actions = [
            self._append, self._append, self._append, self._tell, self._tell, self._tell, self.logs.answer,
            self.logs.answer, self.logs.answer, self.logs.answer, self.connect, self.connect, self._lose, self.sweep,
            self.wait, self.fill, self.empty, self.empty, self.cut, self.trouble, self.drain, self._delete,
        ]  # fmt: skip
        await self.draw(steps, actions)
        for log in self.logs.streams.values():
            if not log.closed:
                log.append(self.rng.randint(0, 2), close=True)
        for reader in self.readers:
            reader.connections = 0
        await self.rest(600, 8)

    def answer_all(self) -> None:
        for log in self.logs.streams.values():
            log.answer()

    def _log(self) -> SimulatedLog:
        return self.rng.choice(list(self.logs.streams.values()))

    def _append(self) -> None:
        log = self._log()
        if not log.closed and log.path not in self.logs.deleted:
            log.append(self.rng.randint(1, 3), close=self.rng.random() < 0.05)

    def _tell(self) -> None:
        self.tell(self._log().news)

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
