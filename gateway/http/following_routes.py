"""The routes of `/v1/stream`, and what OpenAPI says of them."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.http.following import EventStream, Following
from gateway.protocol.many import MOST

_TEXT: Final = {"type": "string"}
_LIVE: Final = {"type": "string", "enum": ["sse"]}
_STREAM: Final = {
    "type": "object",
    "required": ["stream"],
    "properties": {
        "stream": {**_TEXT, "description": "Its path: `runs/{id}`, or what follows `/v1/stream/`."},
        "offset": {**_TEXT, "description": "Where it is begun, instead of where the request says for all."},
        "token": {**_TEXT, "description": "A credential of its own, such as a run's token."},
    },
}
_BODY: Final = {
    "type": "object",
    "required": ["streams"],
    "properties": {
        "streams": {"type": "array", "minItems": 1, "maxItems": MOST, "items": {"anyOf": [_TEXT, _STREAM]}},
        "offset": _TEXT,
    },
}
_PARAMETERS: Final[dict[str, tuple[bool, dict[str, Any], str]]] = {
    "live": (True, _LIVE, "How they are followed."),
    "offset": (
        False,
        _TEXT,
        "Where to start: the `id` of a frame that was given for these streams, `-1` (the start, as when omitted) or"
        " `now`.",
    ),
    "fold": (False, _TEXT, "Of JSON streams, as for one: `type,id:text`."),
    "Last-Event-ID": (False, _TEXT, "Goes before `offset`. A browser's EventSource sends it by itself."),
}
_FILTERS: Final = {
    "status": "Instead of streams: all runs of this status, as `GET /runs` lists them; new ones join by themselves.",
    "workflowName": "The same of runs of this kind.",
    "metadata.NAME": "The same of runs whose metadata has this value under this name; filters go together.",
}
_NAMES: Final = {
    "name": "stream",
    "in": "query",
    "required": False,
    "schema": {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": 250},
    "description": "A stream's path: `runs/{id}`, or what follows `/v1/stream/`. Once for each stream.",
}
_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Frames, each with `id`, the offset of all streams, and as `data` an array: for each stream that"
        " has something to tell an object of `stream`, `streamNextOffset`, and `events` (or `text`, `base64`),"
        " `upToDate`, `streamClosed`, `behind`; or of `stream` and `error`.",
        "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Frame"}}},
    },
    204: {"description": "All have ended, as this reader was told."},
    **{
        status: {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
        for status, text in {
            400: "`invalid_request`",
            401: "No stream may be read with these credentials.",
            403: "`wrong_stream`, `scope_missing`: for all of the streams.",
            413: "`body_too_large`",
            415: "`unsupported_coding`",
            429: "`too_many_streams`, `too_many_requests`, `too_many_pending`",
            503: "`unavailable`, `too_many_readers`, `too_many_followed`, `draining`",
        }.items()
    },
}


def following_router(following: Following) -> APIRouter:
    """GET, for EventSource, and POST, for long lists."""
    router = APIRouter(tags=["streams"])

    async def follow(request: Request) -> Response:
        """Follows up to 1,000 streams over one connection. A stream that cannot be read says so in the response, and
        the others go on; the response ends when all streams have ended.
        """
        return EventStream(following, request.scope)

    for method in ("GET", "POST"):
        names = ("live", "offset", "fold", "Last-Event-ID") if method == "GET" else ("live", "fold", "Last-Event-ID")
        parameters = [
            {
                "name": name,
                "in": "header" if name == "Last-Event-ID" else "query",
                "required": _PARAMETERS[name][0],
                "schema": _PARAMETERS[name][1],
                "description": _PARAMETERS[name][2],
            }
            for name in names
        ]
        filters = [
            {"name": name, "in": "query", "schema": _TEXT, "description": text} for name, text in _FILTERS.items()
        ]
        extra: dict[str, Any] = {"parameters": [_NAMES, *filters, *parameters] if method == "GET" else parameters}
        if method == "POST":
            extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _BODY}}}
        router.add_api_route(
            "/v1/stream",
            follow,
            methods=[method],
            operation_id=f"{method.lower()}_many_streams",
            summary="Follow many streams" if method == "GET" else "Follow many streams, named in the body",
            openapi_extra=extra,
            responses=_ANSWERS,
            response_class=Response,
        )
    return router
