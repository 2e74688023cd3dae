"""`/health`: is the process alive. `/ready`: may a load balancer send it readers and writers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from gateway.asgi import Scope


class Alive(BaseModel):
    """A constant answer, which shows that the event loop is running."""

    status: Literal["ok"] = "ok"


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
        description="How news of a Flue app's runs arrives, where GATEWAY_FLUE is on.",
    )
    draining: bool = Field(description="Whether this Machine is shutting down.")
    durability: Promise | None = Field(
        None,
        description="What the database promises of a commit, where it answers. Only who may read /metrics is told.",
    )


def health_router(readiness: Callable[[], Awaitable[Health]], tells_all: Callable[[Scope], bool]) -> APIRouter:
    """The two routes. `readiness` asks the parts of this Machine.

    `tells_all`: whether who makes a request may know how the database is set up, its version included.
    """
    router = APIRouter(tags=["health"])

    @router.get("/health", summary="Is the process alive? Costs no database.")
    async def health() -> Alive:
        return Alive()

    @router.get(
        "/ready",
        summary="May this Machine be sent requests?",
        response_model_exclude_none=True,
        responses={503: {"model": Health, "description": "Draining, or without a database."}},
    )
    async def ready(request: Request, response: Response) -> Health:
        state = await readiness()
        if not tells_all(request.scope):
            state.durability = None
        if state.draining or not state.database:
            response.status_code = 503
        return state

    # As most monitors ask; the server leaves the body out.
    router.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)
    router.add_api_route("/ready", ready, methods=["HEAD"], include_in_schema=False)

    return router
