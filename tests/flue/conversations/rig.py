"""A table of conversations, an app that answers as Flue does, and clients, all in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import asyncpg

from gateway.asgi import Headers, Message, Receive, Scope
from gateway.flue.conversations import wire
from gateway.flue.conversations.conversation import Conversation
from gateway.flue.conversations.conversations import Conversations
from gateway.flue.conversations.wire import Asked, View
from gateway.http import responses
from gateway.http.door import Behind
from gateway.http.limits import Limits, LiveReaders
from gateway.http.responses import NOTHING, Sending
from gateway.http.upstream import RELAYED
from gateway.log.database import Database
from gateway.settings import Settings
from tests.databases import Postgres
from tests.flue.conversations.recorded import Recording

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

MOUNT: Final = "/agents/chat"


@asynccontextmanager
async def tables(postgres: Postgres) -> AsyncIterator[str]:
    """A database that has them."""
    async with postgres.database() as url:
        connection = await asyncpg.connect(url)
        await connection.execute((Path(__file__).parent / "tables.sql").read_text())
        await connection.close()
        yield url


async def write(connection: Connection, path: str, incarnation: str, batches: list[str], start: int = 0) -> None:
    """As Flue appends: the row of the stream and the batches in one transaction."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO flue_conversation_streams (path, next_offset, incarnation) VALUES ($1, $2, $3)"
            " ON CONFLICT (path) DO UPDATE SET next_offset = excluded.next_offset",
            *(path, start + len(batches), incarnation),
        )
        await connection.executemany(
            "INSERT INTO flue_conversation_stream_batches (path, seq, data) VALUES ($1, $2, $3)",
            [(path, start + at, data) for at, data in enumerate(batches)],
        )


@dataclass
class App:
    """Answers what it is asked for of one conversation; `asked` are the queries. `status`: what it says instead.

    `alter`: what its own layers make of a body. `page`: batches that it shows at once.
    """

    told: Recording
    incarnation: str
    count: int
    asked: list[bytes] = field(default_factory=list)
    scopes: list[Scope] = field(default_factory=list)
    more: Headers = field(default_factory=list)
    status: int = 200
    alter: Callable[[bytes], bytes] = bytes
    page: int = 100

    async def __call__(self, scope: Scope, receive: Receive, send: Sending) -> None:
        self.asked.append(scope["query_string"])
        self.scopes.append(scope)
        asked = wire.parse(scope["query_string"]) or Asked(View.HISTORY)
        conversation = Conversation("", self.incarnation)
        conversation.append(self.told.batches[: self.count])
        headers, body = wire.of_history(self.count), conversation.history()
        if asked.view is View.SSE:
            headers, body = wire.of_events(), wire.first_event(self.incarnation)
        elif asked.view is not View.HISTORY:
            start = min(asked.position, self.count)
            batch = conversation.between(start, min(start + self.page, self.count))
            headers, body = wire.of_updates(batch), wire.updates(self.incarnation, batch)
        headers += [(b"x-content-type-options", b"nosniff"), *self.more]
        await responses.start(send.as_it_is, self.status, headers)
        await responses.piece(send.as_it_is, self.alter(body))
        await responses.finish(send.as_it_is)


class Client:
    """One request, while it is answered."""

    def __init__(
        self,
        behind: Behind,
        id: str,
        query: str,
        method: str = "GET",
        *,
        relayed: bool = False,
        headers: Mapping[str, str] = MappingProxyType({}),
        address: str = "192.0.2.1",
    ) -> None:
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.ended = False
        self._gone = asyncio.Event()
        self._grown = asyncio.Condition()
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "raw_path": f"{MOUNT}/{id}".encode(),
            "path": f"{MOUNT}/{id}",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": (address, 1),
            RELAYED: relayed,
        }
        self.task = asyncio.ensure_future(behind(scope, self._receive, Sending(self._send, NOTHING)))

    async def until(self, part: bytes = b"", *, ended: bool = False) -> None:
        """Waits until this has come, or the end."""
        async with asyncio.timeout(60), self._grown:
            await self._grown.wait_for(lambda: part in self.body and (self.ended or not ended))

    async def whole(self) -> bytes:
        """The answer, which ends cleanly."""
        await self.until(ended=True)
        await self.task
        return self.body

    def leave(self) -> None:
        self._gone.set()

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        async with self._grown:
            if message["type"] == "http.response.start":
                self.status, self.headers = message["status"], dict(message["headers"])
            else:
                self.body += message.get("body", b"")
                self.ended = not message.get("more_body", False)
            self._grown.notify_all()


@dataclass
class Room:
    """A conversation in the tables, the app, and what is in front of it."""

    conversations: Conversations
    limits: Limits
    app: App
    behind: Behind
    connection: Connection
    told: Recording
    incarnation: str
    id: str

    @property
    def path(self) -> str:
        return f"agents/Chat/{self.id}"

    @property
    def by(self) -> dict[str, int]:
        return self.conversations.readers.answered

    def ask(self, query: str = "", **headers: str) -> Client:
        return Client(self.behind, self.id, query, headers=headers)

    async def write(self, start: int, end: int) -> None:
        """The batches of the recording from here to there."""
        await write(self.connection, self.path, self.incarnation, self.told.batches[start:end], start)


@asynccontextmanager
async def room(url: str, told: Recording, count: int, *, listens: bool = False) -> AsyncIterator[Room]:
    """With so many batches of what was recorded."""
    settings: dict[str, Any] = {"flue_poll_interval": 0.01, "sweep_interval": 3600.0}
    limits = Limits(1, long_poll_timeout=0.3, sse_max_age=60.0, readers=LiveReaders(3))
    incarnation = f"inc_{uuid4().hex[:26].upper()}"
    connection = await asyncpg.connect(url)
    async with Database(url, pool_size=3, statement_timeout=10) as database:
        conversations = Conversations(Settings(**settings), [MOUNT], database, limits, lambda: listens)
        await conversations.start()
        app = App(told, incarnation, count)
        behind = conversations.readers.before(app)
        found = Room(conversations, limits, app, behind, connection, told, incarnation, uuid4().hex)
        try:
            await found.write(0, count)
            yield found
        finally:
            await conversations.stop()
            await connection.close()
