"""`POST /runs/<id>/token`: a token with which others can read one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Protocol

import orjson
from pydantic import Field

from gateway.asgi import Receive, Scope, Send
from gateway.auth.errors import ScopeMissing
from gateway.auth.gate import principal_of
from gateway.auth.principal import Principal
from gateway.http import responses
from gateway.http.bodies import Bodies
from gateway.protocol.errors import RouteNotFound, RunNotFound
from gateway.protocol.headers import JSON, NO_STORE
from gateway.protocol.target import tenant_of, without
from gateway.runs.bodies import Body, parse
from gateway.runs.foreign_runs import Others
from gateway.runs.store import Store

MAX_BODY: Final = 4096  # bytes


class TokenRequest(Body):
    """The body. Everything may be left out."""

    control: bool = Field(False, description="Whether it may also cancel the run, as its maker must be able to.")
    ttl: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Seconds that it is valid; at most GATEWAY_TOKEN_TTL, and what the asker's own has left.",
    )


class Signer(Protocol):
    """A maker of tokens, of those that this principal may give away: see `gateway.auth.auth.Auth.signer`."""

    async def __call__(
        self, principal: Principal, *, control: bool = False, ttl: int | None = None
    ) -> Callable[[str, int], tuple[str, int]] | None: ...


class Tokens:
    """The handler. `others`: another system's runs, which are served beside those of the default tenant."""

    def __init__(self, signer: Signer, store: Store, bodies: Bodies, others: Others | None = None) -> None:
        self._signer = signer
        self._bodies = bodies
        self._store = store
        self._others = others

    async def __call__(self, run: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers with a token for the run at this stored path. Raises RunNotFound and its like."""
        asked = parse(TokenRequest, await self._bodies.read(scope, receive, MAX_BODY))
        if "read" not in principal_of(scope).scopes:
            raise ScopeMissing("read")  # otherwise a credential for writing could read everything by a token
        stream_id = await self._find(run)
        sign = await self._signer(principal_of(scope), control=asked.control, ttl=asked.ttl)
        if sign is None:
            raise RouteNotFound("AUTH is none: nobody needs a token.")
        answer: dict[str, Any] = dict(zip(("token", "expiresAt"), sign(without(run), stream_id), strict=True))
        await responses.respond(send, 201, [JSON, NO_STORE], orjson.dumps(answer))

    async def _find(self, run: str) -> int:
        """The id of the run's stream."""
        try:
            return (await self._store.look(run))[0]
        except RunNotFound:
            if self._others is None or tenant_of(run):
                raise
            return await self._others.find(run.removeprefix("runs/"))
