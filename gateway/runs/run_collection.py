"""`POST /runs` and `GET /runs`, answered by FastAPI, since neither is a hot path."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.asgi import base_url
from gateway.auth.errors import WrongStream
from gateway.auth.gate import principal_of
from gateway.http.bodies import Bodies
from gateway.http.following import EventStream
from gateway.protocol.errors import RunExists
from gateway.protocol.offset import START, format_offset
from gateway.protocol.record import STATUSES
from gateway.protocol.run_list import DEFAULT_LIMIT, MAX_LIMIT, page_in_pieces, size
from gateway.protocol.target import within
from gateway.runs.bodies import CreateRun, create_in_pieces
from gateway.runs.foreign_runs import Others
from gateway.runs.ids import CHANCE_BYTES, run_id
from gateway.runs.live_list_answer import LiveLists
from gateway.runs.queries import format_cursor, parse_list
from gateway.runs.store import Store
from gateway.runs.tokens import Signer
from gateway.tasks import in_turns

MAX_BODY: Final = 1 << 20  # bytes

_BODY: Final = {"requestBody": {"content": {"application/json": {"schema": CreateRun.model_json_schema()}}}}
_TEXT: Final = {"type": "string"}
_TOKEN: Final = {
    "type": "string",
    "description": "With AUTH on, for clients that may read: its holder may read this run.",
}
_COORDINATES: Final = {
    "type": "object",
    "required": ["runId", "streamUrl", "offset"],
    "properties": {
        "runId": _TEXT,
        "streamUrl": {"type": "string", "format": "uri"},
        "offset": _TEXT,
        "token": _TOKEN,
    },
}
_FILTERS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "status": ({"type": "string", "enum": [*STATUSES]}, "Only runs that are so."),
    "workflowName": (_TEXT, "Only runs of this kind."),
    "metadata.NAME": (_TEXT, "Only runs whose metadata has this value under this name; for several names, several."),
    "limit": ({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}, "Runs in a page."),
    "cursor": (_TEXT, "The `nextCursor` of the page before."),
    "live": (
        {"type": "string", "enum": ["sse"]},
        'The list as an event stream: first `{"list":[…]}`, then `{"changes":[{"change","run"}]}` for each run'
        " that is `created`, `cancelled`, `ended` or `removed`.",
    ),
}
_SOURCE: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "source": (
        {"type": "string", "enum": ["flue", "gateway"], "default": "flue"},
        "Whose runs: those of the Flue app, which are not listed by metadata, or the gateway's own.",
    )
}


class RunRoutes:
    """The two handlers. `signer` makes tokens for readers; `public_url` is what clients call this server, if set.

    `others`: runs that stand beside those of the default tenant, and whose ids are taken.
    """

    def __init__(
        self,
        store: Store,
        signer: Signer,
        bodies: Bodies,
        public_url: str | None,
        live: LiveLists,
        created: Callable[[str], None],
        others: Others | None = None,
    ) -> None:
        self._live = live
        self._created = created
        self._store = store
        self._signer = signer
        self._bodies = bodies
        self._public_url = public_url
        self._others = others

    async def create(self, request: Request) -> Response:
        """Makes a run and answers with its coordinates, which are all that a reader needs. A repeated request gets the
        answer of the first.
        """
        body = await self._bodies.read(request.scope, request.receive, MAX_BODY)
        asked = await in_turns(create_in_pieces(body), len(body))
        id = asked.id or run_id(time.time(), secrets.token_bytes(CHANCE_BYTES))
        principal = principal_of(request.scope)
        if not principal.reaches(f"runs/{id}"):
            raise WrongStream
        if asked.id and self._others is not None and not principal.tenant and await self._others.taken(id):
            raise RunExists("A Flue app has a run of this id.")
        sign = await self._signer(principal, control=asked.control)  # first, since it may be refused
        new, tail, stream_id = await self._store.create(within(principal.tenant, f"runs/{id}"), asked.run)
        if new:
            self._created(within(principal.tenant, f"runs/{id}"))
        url = f"{base_url(request.scope, self._public_url)}/runs/{quote(id, safe='')}"
        # Not the tail: a repeated request may come when the producer has written already, and readers want all of it.
        coordinates = {"runId": id, "streamUrl": url, "offset": format_offset(START).decode()}
        if sign is not None:
            coordinates["token"], _ = sign(f"runs/{id}", stream_id)
        headers = {"stream-next-offset": format_offset(tail).decode(), "location": url}
        return _json(201 if new else 200, orjson.dumps(coordinates), headers)

    async def list(self, request: Request) -> Response:
        """Records, newest first, without input, result and error. Filters go together; `nextCursor` is there while
        there is more. With `live=sse`, an event stream: the list, and then each change.
        """
        if "live" in request.query_params:
            return EventStream(self._live, request.scope)
        records, end = await self._store.page(parse_list(request.url.query), principal_of(request.scope).tenant)
        page = page_in_pieces(records, None if end is None else format_cursor(end))
        return _json(200, await in_turns(page, sum(map(size, records))))


def make_router(routes: RunRoutes, *, beside_others: bool) -> APIRouter:
    """Both, and what OpenAPI says of them. `beside_others`: whether those of a Flue app can be listed, too."""
    router = APIRouter(tags=["runs"])
    router.add_api_route(
        "/runs",
        routes.create,
        methods=["POST"],
        status_code=201,
        summary="Make a run",
        openapi_extra=_BODY,
        responses={
            201: _answer("Made.", _COORDINATES),
            200: _answer("It was asked for just so before.", _COORDINATES),
            400: _refusal("`invalid_request`"),
            409: _refusal("`run_exists`: with another body. `path_blocked`: deleted, and forks still need it."),
            413: _refusal("`body_too_large`"),
            415: _refusal("`unsupported_coding`"),
            429: _refusal("`too_many_creates`, `too_many_runs`, `too_many_requests`, `too_many_pending`"),
            503: _refusal("`unavailable`"),
        },
    )
    a_page = {
        "type": "object",
        "properties": {"runs": {"type": "array", "items": {"type": "object"}}, "nextCursor": _TEXT},
    }
    router.add_api_route(
        "/runs",
        routes.list,
        methods=["GET"],
        summary="List runs",
        openapi_extra={
            "parameters": [
                {"name": name, "in": "query", "schema": schema, "description": text}
                for name, (schema, text) in (_FILTERS | (_SOURCE if beside_others else {})).items()
            ]
        },
        responses={
            200: _answer("A page; with `live=sse` events.", a_page, events=True),
            400: _refusal("`invalid_request`"),
            429: _refusal("`too_many_streams`, `too_many_requests`"),
            503: _refusal("`unavailable`, `too_many_lists`, `list_too_slow`, `too_many_readers`, `draining`"),
        },
    )
    return router


def _answer(text: str, schema: dict[str, Any], *, events: bool = False) -> dict[str, Any]:
    """`events`: the answer may be an event stream instead."""
    content = {"application/json": {"schema": schema}}
    if events:
        content["text/event-stream"] = {"schema": {"$ref": "#/components/schemas/Frame"}}
    return {"description": text, "content": content}


def _refusal(text: str) -> dict[str, Any]:
    return _answer(text, {"$ref": "#/components/schemas/Error"})


def _json(status: int, content: bytes, headers: dict[str, str] | None = None) -> Response:
    headers = {"cache-control": "no-store", **(headers or {})}
    return Response(content, status_code=status, media_type="application/json", headers=headers)
