"""What the tests of subscriptions share: streams straight in the database, a webhook's receiver, and a wait."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

import asyncpg
import orjson

from gateway.log.database import Database
from gateway.subscriptions import Subscriptions
from gateway.subscriptions.rules import Wanted, parse_create

_CREATE = (
    "SELECT * FROM run_gateway.make_stream_v2($1, $2, $2, NULL, NULL, NULL, $3, $4, NULL, NULL, $5, NULL, 100, 10000,"
    " NULL, NULL, NULL, NULL)"
)


def wanted(**fields: Any) -> Wanted:
    """A subscription to be made, as a request's body says it."""
    return parse_create(fields, allow_local_webhooks=True)


def pull_wake(pattern: str = "runs/*", wake_stream: str = "wake", **fields: Any) -> Wanted:
    return wanted(**{"type": "pull-wake", "pattern": pattern, "wake_stream": wake_stream, **fields})


def webhook(url: str, pattern: str = "runs/*", **fields: Any) -> Wanted:
    return wanted(**{"type": "webhook", "pattern": pattern, "webhook": {"url": url}, **fields})


class Streams:
    """The log, without a Machine: what is done here, some other Machine has done."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, path: str, *events: bytes, closed: bool = False, fork_of: str | None = None) -> None:
        async with self._database.acquire() as connection:
            await connection.execute(_CREATE, path, "application/json", closed, fork_of, list(events))

    async def append(self, path: str, event: bytes = b'"more"') -> int:
        return int(await self.value("SELECT run_gateway.append_event($1, $2::jsonb)", path, event.decode()))

    async def delete(self, path: str) -> None:
        await self.value("SELECT run_gateway.delete_stream('', $1)", path)

    async def close(self, path: str) -> None:
        await self.value("UPDATE run_gateway.streams SET closed = true WHERE path = $1", path)

    async def read(self, path: str) -> list[Any]:
        query = (
            "SELECT array_agg(e.data ORDER BY e.seq) FROM run_gateway.events e"
            " JOIN run_gateway.streams s ON s.id = e.stream WHERE s.path = $1"
        )
        return [orjson.loads(event) for event in await self.value(query, path) or []]

    async def value(self, query: str, *arguments: Any) -> Any:
        async with self._database.acquire() as connection:
            return await connection.fetchval(query, *arguments)

    async def row(self, query: str, *arguments: Any) -> asyncpg.Record:
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(query, *arguments)
        assert row is not None
        return row

    async def pass_lease(self, id: str) -> None:
        """Moves time: the lease is over."""
        await self.value(
            "UPDATE run_gateway.subscriptions SET lease_until = clock_timestamp() - interval '1 ms' WHERE id = $1", id
        )

    async def pass_attempt(self, id: str) -> None:
        """Moves time: the next delivery is due, or the one under way counts as lost."""
        await self.value(
            "UPDATE run_gateway.subscriptions SET next_attempt_at = clock_timestamp(),"
            " lease_until = clock_timestamp() + interval '1 minute' WHERE id = $1",
            id,
        )


@dataclass(frozen=True)
class Received:
    """One delivery as it arrived."""

    head: dict[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        document = orjson.loads(self.raw)
        assert isinstance(document, dict)
        return document

    def work(self) -> dict[str, str]:
        """Path to tail of the streams that it tells of as pending."""
        return {stream["path"]: stream["tail_offset"] for stream in self.body["streams"] if stream["has_pending"]}


Answer = Callable[[Received], Awaitable[bytes]]


class Receiver:
    """A webhook's handler. `answer` gives the whole response; the default is 200 with an empty object."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.received: list[Received] = []
        self.writers: list[asyncio.StreamWriter] = []  # of the connections
        self.answer: Answer = says(b"{}")
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/hook"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.writers.append(writer)
        task.add_done_callback(self._connections.discard)
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            head = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in lines[1:] if line}
            received = Received(head, await reader.readexactly(int(head["content-length"])))
            self.received.append(received)
            writer.write(await self.answer(received))
            await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the Machine has died on the way, or the test is over before the answer
        finally:
            writer.close()


def says(body: bytes, status: str = "200 OK") -> Answer:
    """An answer that is always the same."""

    async def answer(_: Received) -> bytes:
        return b"HTTP/1.1 %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status.encode(), len(body), body)

    return answer


def hangs() -> tuple[Answer, asyncio.Event]:
    """A handler that never answers, and what is set when it has been called."""
    called = asyncio.Event()

    async def answer(_: Received) -> bytes:
        called.set()
        return await asyncio.Future[bytes]()

    return answer, called


async def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Waits for a condition, plain or awaitable."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


async def die(machine: Subscriptions) -> None:
    """Kills a Machine's part in subscriptions on the spot: nothing is reported, nothing handed over."""
    dispatcher, webhooks = machine._dispatcher, machine._webhooks
    assert dispatcher is not None
    tasks = [task for task in (dispatcher._task, *dispatcher._deliveries) if task is not None]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if webhooks is not None:  # it has made an attempt
        await webhooks.close()


async def idle(machine: Subscriptions) -> None:
    """Waits until it has seen to everything that it was told of."""
    dispatcher = machine._dispatcher
    assert dispatcher is not None
    await eventually(
        lambda: (
            not dispatcher._turning.locked()
            and not (dispatcher._deliveries or dispatcher._may_deliver or dispatcher._rung.is_set())
        )
    )
