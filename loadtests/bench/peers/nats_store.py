"""NATS JetStream: one stream of all runs, a subject for each, by nats-py. What is read is read by ordered consumers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from loadtests.bench.peers.store import START, Events, Gone, Id

PORT = int(os.environ["BENCH_STORE_PORT"])
STREAM = "RUNS"
PATIENCE = 5.0  # seconds for an answer
PENDING = 1_000_000  # messages that a subscription may hold


@contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except (NatsError, OSError, TimeoutError) as error:
        raise Gone(str(error)) from error


class Inbox:
    """What a consumer was sent and nobody has taken."""

    def __init__(self) -> None:
        self._events: list[tuple[Id, bytes]] = []
        self._news = asyncio.Event()
        self._lost = False

    async def put(self, message: Msg) -> None:
        self._events.append(((0, message.metadata.sequence.stream), message.data))
        self._news.set()

    def lose(self) -> None:
        self._lost = True
        self._news.set()

    async def take(self) -> Events:
        """At least one. Raises Gone when the connection is lost."""
        await self._news.wait()
        self._news.clear()
        if self._lost:
            raise Gone("the connection is lost")
        events, self._events = self._events, []
        return events


class NatsStore:
    """An event's id is its sequence in the stream. Consumers end with the connection: their readers come back."""

    def __init__(self) -> None:
        self._opening = asyncio.Lock()
        self._client: Client | None = None
        self._inboxes: set[Inbox] = set()

    async def append(self, run: str, events: Sequence[bytes], name: str | None) -> None:
        with _gone():
            stream = await self._stream()
            named = [{"Nats-Msg-Id": f"{name}:{number}"} if name else None for number in range(len(events))]
            await asyncio.gather(
                *(
                    stream.publish(f"runs.{run}", event, timeout=PATIENCE, headers=headers)
                    for event, headers in zip(events, named, strict=True)
                )
            )

    async def last(self, run: str) -> Id:
        with _gone():
            stream = await self._stream()
            try:
                return 0, (await stream.get_last_msg(STREAM, f"runs.{run}")).seq or 0
            except NotFoundError:
                return START

    async def page(self, run: str, after: Id, count: int) -> Events:
        last = await self.last(run)
        found: list[tuple[Id, bytes]] = []
        if last > after:
            async with self._inbox(run, after) as inbox:
                while len(found) < count and (not found or found[-1][0] < last):
                    found += await inbox.take()
        return found

    async def follow(self, run: str, after: Id) -> AsyncIterator[Events]:
        async with self._inbox(run, after) as inbox:
            while True:
                yield await inbox.take()

    @asynccontextmanager
    async def _inbox(self, run: str, after: Id) -> AsyncIterator[Inbox]:
        start = ConsumerConfig(deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after[1] + 1)
        inbox = Inbox()
        with _gone():
            stream = await self._stream()
            consumer = await stream.subscribe(
                f"runs.{run}", stream=STREAM, ordered_consumer=True, config=start, cb=inbox.put,
                pending_msgs_limit=PENDING,
            )  # fmt: skip
        self._inboxes.add(inbox)
        try:
            yield inbox
        finally:
            self._inboxes.discard(inbox)
            with suppress(NatsError):  # it has gone with its connection
                await consumer.unsubscribe()

    async def _stream(self) -> JetStreamContext:
        async with self._opening:
            if self._client is None:
                client = await nats.connect(
                    f"nats://127.0.0.1:{PORT}", disconnected_cb=self._disconnected, reconnect_time_wait=0.1,
                    max_reconnect_attempts=-1,
                )  # fmt: skip
                config = StreamConfig(name=STREAM, subjects=["runs.*"], storage=StorageType.FILE)
                await client.jetstream().add_stream(config)
                self._client = client
        return self._client.jetstream()

    async def _disconnected(self) -> None:
        for inbox in self._inboxes:
            inbox.lose()
