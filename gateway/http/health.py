"""`/health`: is the process alive. `/ready`: may a load balancer send it readers and writers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Literal

from pydantic import BaseModel, Field

from gateway.asgi import Receive, Scope, Send
from gateway.http import responses
from gateway.protocol.headers import JSON

HEALTH: Final = ("/health", "/ready")


class Alive(BaseModel):
    """A constant answer, which shows that the event loop is running."""

    status: Literal["ok"] = "ok"


_ALIVE: Final = Alive().model_dump_json().encode()


class Promise(BaseModel):
    """The durability that the database promises for a commit."""

    version: str = Field(description="Of Postgres.")
    synchronous_commit: str = Field(
        description="Of the gateway's sessions. Where it is `off`, the log's transactions set it on for themselves."
    )
    synchronous_standby_names: str = Field(description="Standbys that confirm a commit before it is acknowledged.")
    fsync: bool = Field(description="Where it is off, a crash of the database's host loses what was acknowledged.")
    full_page_writes: bool = Field(description="Where it is off, such a crash may damage what is stored.")
    system_identifier: str | None = Field(None, description="Which cluster this is, where the role may know it.")
    timeline: int | None = Field(None, description="It changes with each promotion of a standby.")


class Health(BaseModel):
    """The state of what a Machine needs to serve."""

    machine: str = Field(description="What this Machine is called, as in its log; on Fly its region and id.")
    database: bool = Field(description="Whether the database answers.")
    news: Literal["listen", "polling"] = Field(
        description="How news of other Machines arrives: by LISTEN, or by polling where LISTEN does not work."
    )
    flue: Literal["triggers", "polling"] | None = Field(
        None,
        description="How news of a Flue app's runs or conversations arrives, where GATEWAY_FLUE is on, or"
        " GATEWAY_FLUE_READERS is set.",
    )
    draining: bool = Field(description="Whether this Machine is shutting down.")
    durability: Promise | None = Field(
        None,
        description="What the database promises of a commit, where it answers. Only who may read /metrics is told.",
    )


class HealthAnswers:
    """The two answers, straight over ASGI: they are asked for before anything else. `readiness` asks the parts of this
    Machine. `tells_all`: whether who makes a request may know how the database is set up, its version included.
    """

    def __init__(self, readiness: Callable[[], Awaitable[Health]], tells_all: Callable[[Scope], bool]) -> None:
        self._readiness = readiness
        self._tells_all = tells_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A GET or HEAD of one of HEALTH."""
        if scope["path"] == "/health":
            await _answer(scope, send, 200, _ALIVE)
            return
        state = await self._readiness()
        if not self._tells_all(scope):
            state.durability = None
        status = 503 if state.draining or not state.database else 200
        await _answer(scope, send, status, state.model_dump_json(exclude_none=True).encode())


async def _answer(scope: Scope, send: Send, status: int, body: bytes) -> None:
    if scope["method"] == "HEAD":  # as most monitors ask
        await responses.head(send, status, [JSON, (b"content-length", b"%d" % len(body))])
    else:
        await responses.respond(send, status, [JSON], body)
