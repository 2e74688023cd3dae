"""The OpenAPI document: FastAPI's own, with the stream routes of `operations` added to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.auth.rules import need_of
from gateway.http.openapi.examples import INTRODUCTION, READ, RECORD
from gateway.http.openapi.links import link
from gateway.http.openapi.stream_operations import (
    AT_THE_GATE,
    BELOW_A_RUN,
    EVENT_STREAM,
    EVENT_STREAM_SCHEMAS,
    EVERYWHERE,
    OPERATIONS,
    QUERY_PARAMETERS,
    REFUSAL_HEADERS,
    REQUEST_FIELDS,
    RESPONSE_HEADERS,
    STREAM_ROUTES,
    TEXT,
    TYPES,
    Answer,
    Json,
    Operation,
    Refusals,
)
from gateway.protocol.errors import ProtocolError

_REFUSAL: Final[Json] = {
    "type": "object",
    "required": ["type", "message", "details"],
    "properties": {
        "type": {"type": "string", "description": "Names the refusal; never changes."},
        "message": {"type": "string", "description": "Says it to people."},
        "details": {"type": ["string", "null"], "description": "What in this request was refused."},
    },
}
_ERROR: Final[Json] = {"type": "object", "required": ["error"], "properties": {"error": _REFUSAL}}

SECURITY: Final[Json] = {
    "bearer": {
        "type": "http", "scheme": "bearer",
        "description": "A key, a JWT, or a run's token, whichever of them AUTH lets in.",
    },
    "token": {
        "type": "apiKey", "in": "query", "name": "token",
        "description": "A run's token, for EventSource and for links, which cannot set headers.",
    },
}  # fmt: skip


def describe(api: FastAPI, *, auth: bool = False) -> Json:
    """The whole document, made once. `auth`: whether credentials are asked for."""
    if api.openapi_schema is None:
        document = get_openapi(title=api.title, version=api.version, description=INTRODUCTION, routes=api.routes)
        document.setdefault("components", {}).setdefault("schemas", {}).update(EVENT_STREAM_SCHEMAS, Error=_ERROR)
        for route, parameter in STREAM_ROUTES.items():
            tag = "runs" if route.startswith("/runs") else "streams"
            operations = {name: _operation(name, operation, tag) for name, operation in OPERATIONS.items()}
            document["paths"][route] = {"parameters": [parameter]} | operations
        for route, (tag, below) in BELOW_A_RUN.items():
            operations = {name: _operation(name, operation, tag) for name, operation in below.items()}
            document["paths"][route] = {"parameters": [STREAM_ROUTES["/runs/{id}"]]} | operations
        link(document)
        if auth:
            document["components"].setdefault("securitySchemes", {}).update(SECURITY)
            _secure(document)
        api.openapi_schema = document
    return api.openapi_schema


def _secure(document: Json) -> None:
    """Adds to each operation the credential that the gate asks for, unless it has one of its own already."""
    for route, operations in document["paths"].items():
        for method, operation in operations.items():
            if method not in ("parameters", "options"):
                need = need_of(route, method.upper())
                if need == "nothing":
                    operation["security"] = []
                elif need in ("optional", "each"):
                    operation["security"] = [{}, {"bearer": []}]
                    operation["responses"] |= {"401": _refusals((), beside=AT_THE_GATE)["401"]}
                elif need != "own":
                    in_url: list[Json] = (
                        [{"token": []}] if need in ("read", "control") and route.startswith("/runs/") else []
                    )
                    operation["security"] = [{"bearer": [need]}, *in_url]
                    operation["responses"] = _refusals((), beside=AT_THE_GATE) | operation["responses"]


def _operation(method: str, operation: Operation, tag: str) -> Json:
    of_runs = {"runs": ("tail", "meta"), "control": ("tail",)}
    asks = (*operation.asks, *of_runs.get(tag, ())) if method == "get" else operation.asks
    described: Json = {
        "tags": ["streams" if tag == "streams" else "runs"],
        "operationId": f"{method}_{tag}",
        "summary": operation.summary,
        "description": operation.text,
        "parameters": [_parameter(name) for name in asks],
        "responses": {str(status): _answer(answer) for status, answer in operation.answers.items()}
        | ({} if method == "options" else _refusals(operation.refuses, bodyless=method == "head")),
    }
    if method == "get":
        content = described["responses"]["200"]["content"]
        for type, examples in READ.items():
            content[type]["examples"] = examples | (RECORD if (tag, type) == ("runs", "application/json") else {})
    body = {"requestBody": {"description": operation.body, "content": _content(TYPES)}}
    return described | (body if operation.body else {})


def _parameter(name: str) -> Json:
    schema, text = REQUEST_FIELDS[name]
    return {
        "name": name,
        "in": "query" if name in QUERY_PARAMETERS else "header",
        "schema": schema,
        "description": text,
    }


def _answer(answer: Answer) -> Json:
    content = {"content": _content(answer.content)} if answer.content else {}
    return {"description": answer.text, "headers": _headers(answer.headers)} | content


def _refusals(
    own: Refusals,
    *,
    bodyless: bool = False,
    beside: Refusals = EVERYWHERE,
) -> Json:
    by_status: dict[int, list[type[ProtocolError]]] = {}
    for error in beside + own:
        by_status.setdefault(error.status, []).append(error)
    return {str(status): _refusal(status, by_status[status], bodyless) for status in sorted(by_status)}


def _refusal(status: int, classes: list[type[ProtocolError]], bodyless: bool) -> Json:
    names = list(dict.fromkeys(name for error in classes for name in REFUSAL_HEADERS.get(error, ())))
    names += ["Retry-After"] if status in (429, 503) else []
    text = "\n".join(f"- `{error.type}`: {(error.__doc__ or '').strip()}" for error in classes)
    examples = {error.type: {"value": _refused(error)} for error in classes}
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}, "examples": examples}}}
    return {"description": text, "headers": _headers(names)} | ({} if bodyless else body)


def _refused(error: type[ProtocolError]) -> Json:
    return {"error": {"type": error.type, "message": (error.__doc__ or "").strip(), "details": None}}


def _headers(names: Sequence[str]) -> Json:
    return {name: {"schema": RESPONSE_HEADERS[name][0], "description": RESPONSE_HEADERS[name][1]} for name in names}


def _content(types: tuple[str, ...]) -> Json:
    schemas: Json = {"application/json": {}, "text/event-stream": EVENT_STREAM}
    return {type: {"schema": schemas.get(type, TEXT)} for type in types}
