"""The OpenAPI description: FastAPI's own, and the stream routes, which answer without FastAPI.

It says what those routes do and does nothing itself. Refusals are described by the error tree; tests hold the rest
against the parser and against real answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.auth.rules import need_of
from gateway.protocol import errors
from gateway.protocol.errors import ProtocolError
from gateway.protocol.request import MAX_LEASE, MAX_PATH, MAX_RUN_ID, MAX_TOKEN

Json = dict[str, Any]

TEXT: Final[Json] = {"type": "string"}
TRUE: Final[Json] = {"type": "string", "const": "true"}
OFFSET: Final[Json] = {"type": "string", "examples": ["0000000000000000_0000000000000042"]}
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
SAFE: Final[Json] = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}
DATE: Final[Json] = {"type": "string", "format": "date-time"}
TOKEN: Final[Json] = {"type": "string", "minLength": 1, "maxLength": MAX_TOKEN}

# Headers and parameters of requests: what they hold, and what they ask for.
ASKED: Final[dict[str, tuple[Json, str]]] = {
    "Content-Type": (TEXT, "PUT: the stream's type; omitted: application/octet-stream. POST: must be the stream's."),
    "Stream-Closed": (TRUE, "`true`: the stream is closed, after the body if there is one. Nothing else counts."),
    "Stream-TTL": (COUNT, "Seconds that the stream lives after its last read or write. Not with Stream-Expires-At."),
    "Stream-Expires-At": (DATE, "When the stream ends (RFC 3339). Not together with Stream-TTL."),
    "Stream-Forked-From": (TEXT, "Path of the URL of the stream, on this server, to fork from."),
    "Stream-Fork-Offset": (OFFSET, "Where the fork leaves its source; its tail when omitted."),
    "Stream-Fork-Sub-Offset": (COUNT, "So many messages (JSON) or bytes (else) past Stream-Fork-Offset."),
    "Stream-Seq": (TOKEN, "Must be greater, bytewise, than the stream's last one, whoever wrote it."),
    "Producer-Id": (TOKEN, "An idempotent producer's name. The three Producer headers go together."),
    "Producer-Epoch": (SAFE, "Counted up when the producer restarts; a lower one than the last is refused."),
    "Producer-Seq": (SAFE, "Counts the producer's requests from 0 in each epoch; a repeated one appends nothing."),
    "Run-Lease": ({"type": "integer", "minimum": 1, "maximum": MAX_LEASE}, "Runs: the producer promises a sign of life "
                  "at least every so many seconds, until it promises otherwise. When broken, the run is ended."),
    "Last-Event-ID": (OFFSET, "With `live=sse`: goes before `offset`. A browser's EventSource sends it by itself."),
    "If-None-Match": (TEXT, "The ETag of an answer that the client has; the answer is 304 when it still holds."),
    "offset": (TEXT, "Where to start: an offset that was given out, `-1` (the start, as when omitted) or `now`."),
    "live": ({"type": "string", "enum": ["long-poll", "sse"]}, "How to go on at the tail; needs an offset."),
    "cursor": (TEXT, "The last Stream-Cursor; the next one is greater."),
    "tail": ({"type": "integer", "minimum": 1}, "With `offset=-1`: at most so many of the last events."),
    "meta": ({}, "The run's record instead of its events; no value is needed."),
    "wait": ({"type": "number", "minimum": 0, "maximum": 300}, "With `meta`: answers when the run has ended, or after "
             "so many seconds."),
}  # fmt: skip
QUERY: Final = ("offset", "live", "cursor", "tail", "meta", "wait")

GIVEN: Final[dict[str, tuple[Json, str]]] = {
    "Content-Type": (TEXT, "The stream's type, as its creator wrote it; for SSE, text/event-stream."),
    "Stream-Next-Offset": (OFFSET, "Where to go on reading; to a writer, the tail."),
    "Stream-Closed": (TRUE, "The stream is closed; to a reader, and has no more to read."),
    "Stream-Up-To-Date": (TRUE, "There was no more to read."),
    "Stream-Cursor": (TEXT, "To be sent back as `cursor`. Absent once the stream is closed."),
    "Stream-TTL": (COUNT, "Seconds that the stream lives after it was last read or written."),
    "Stream-Expires-At": (DATE, "When the stream ends."),
    "Stream-SSE-Data-Encoding": ({"type": "string", "const": "base64"}, "Data events are base64: not text, nor JSON."),
    "Producer-Epoch": (SAFE, "The producer's epoch as the log knows it."),
    "Producer-Seq": (SAFE, "The highest sequence accepted from the producer in this epoch."),
    "Producer-Expected-Seq": (SAFE, "The sequence that comes next."),
    "Producer-Received-Seq": (SAFE, "The sequence that came."),
    "Run-Cancel-Requested": (TRUE, "The run has been asked to stop; on every answer to its producer from then on."),
    "ETag": (TEXT, "Names this answer; changes when the stream is closed."),
    "Cache-Control": (TEXT, "Private; at the tail of an open stream it is to be asked for again."),
    "Location": ({"type": "string", "format": "uri"}, "The stream's absolute URL."),
    "WWW-Authenticate": (TEXT, "How to be let in, and why not (RFC 6750)."),
    "Retry-After": ({"type": "integer", "minimum": 1}, "Seconds, different for each client, to wait."),
    "Access-Control-Allow-Methods": (TEXT, "The methods that there are."),
    "Access-Control-Allow-Headers": (TEXT, "The headers that pages of other origins may send."),
    "Access-Control-Max-Age": (COUNT, "Seconds that a browser may remember this."),
}  # fmt: skip
REFUSED: Final[dict[type[ProtocolError], tuple[str, ...]]] = {  # what a refusal carries besides its body
    errors.StaleEpoch: ("Producer-Epoch",),
    errors.ProducerLost: ("Stream-Closed", "Stream-Next-Offset", "Producer-Epoch"),
    errors.StreamClosed: ("Stream-Closed", "Stream-Next-Offset"),
    errors.ProducerSequenceGap: ("Producer-Expected-Seq", "Producer-Received-Seq"),
    **dict.fromkeys(
        (errors.CredentialMissing, errors.CredentialMalformed, errors.TokenInvalid, errors.TokenExpired,
         errors.ScopeMissing, errors.WrongStream),
        ("WWW-Authenticate",),
    ),
}  # fmt: skip
Refused = tuple[type[ProtocolError], ...]
_AT_THE_GATE: Final[Refused] = (  # with AUTH on
    errors.CredentialMissing, errors.CredentialMalformed, errors.TokenInvalid, errors.TokenExpired,
    errors.ScopeMissing, errors.WrongStream, errors.IssuerUnavailable,
)  # fmt: skip
_EVERYWHERE: Final[Refused] = (
    errors.InvalidRequest, errors.TooManyRequests, errors.InternalFault, errors.Unavailable, *_AT_THE_GATE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: what it means, its headers, and what its body may be."""

    text: str
    headers: tuple[str, ...] = ()
    content: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a stream: what it is asked with, how it answers, and what it may refuse."""

    summary: str
    text: str
    asks: tuple[str, ...]
    answers: dict[int, Answer]
    refuses: tuple[type[ProtocolError], ...] = ()
    body: str | None = None


_ANY: Final = ("application/json", "text/plain", "application/octet-stream")
_WRITTEN: Final = ("Stream-Next-Offset", "Stream-Closed", "Producer-Epoch", "Producer-Seq", "Run-Cancel-Requested")
_CREATED: Final = ("Content-Type", "Stream-Next-Offset", "Stream-Closed")
_POLLED: Final = ("Stream-Next-Offset", "Stream-Up-To-Date", "Stream-Closed", "Stream-Cursor", "Cache-Control")
_READ: Final = (*_POLLED, "Content-Type", "Stream-SSE-Data-Encoding", "ETag")

OPERATIONS: Final[dict[str, Operation]] = {
    "put": Operation(
        "Create a stream, or make sure of it",
        "With Stream-Forked-From it is a fork: it inherits its source's events up to the fork offset, and its type and "
        "expiry when it is given none. Repeated with the same configuration it succeeds and appends nothing.",
        ("Content-Type", "Stream-Closed", "Stream-TTL", "Stream-Expires-At", "Stream-Forked-From",
         "Stream-Fork-Offset", "Stream-Fork-Sub-Offset", "Run-Lease"),
        {201: Answer("Created.", (*_CREATED, "Location")), 200: Answer("It exists as asked for.", _CREATED)},
        (errors.InvalidJson, errors.ForkOffsetBeyondTail, errors.ForkSubOffsetBeyondData, errors.SourceNotFound,
         errors.StreamExists, errors.PathBlocked, errors.SourceGone, errors.ContentTypeMismatch, errors.BodyTooLarge,
         errors.BatchTooLarge, errors.EventTooLarge, errors.TooManyCreates, errors.TooManyRuns,
         errors.NotWritable, errors.StreamHeld),
        "The first events, as in an append; a JSON stream also takes an empty array, for none.",
    ),
    "post": Operation(
        "Append, close, or both",
        "Answered when it is durable. In a JSON stream each element of an array is an event; in others the body is. An "
        "empty body is right only with `Stream-Closed: true`. With Producer headers a repetition is applied once; an "
        "answer of 503 leaves the outcome open.",
        ("Content-Type", "Stream-Closed", "Stream-Seq", "Producer-Id", "Producer-Epoch", "Producer-Seq", "Run-Lease"),
        {200: Answer("A producer's new events were appended.", _WRITTEN),
         204: Answer("Appended or closed; for a producer: closed, or known already.", _WRITTEN)},
        (errors.InvalidJson, errors.NewEpochMustStartAtZero, errors.StaleEpoch, errors.ProducerLost,
         errors.StreamNotFound, errors.StreamClosed, errors.ContentTypeMismatch, errors.StreamSeqConflict,
         errors.ProducerSequenceGap, errors.StreamGone, errors.BodyTooLarge, errors.BatchTooLarge,
         errors.EventTooLarge, errors.TooManyAppends, errors.TooManyPending,
         errors.NotWritable, errors.StreamHeld),
        "The events, in the stream's content type.",
    ),
    "get": Operation(
        "Read, and follow",
        "Without `live`: a page of what comes after the offset. `live=long-poll` waits where there is nothing yet, and "
        "answers 204 when nothing came. `live=sse` is an event stream: `data` events, each with a `control` one after "
        "it, `{streamNextOffset, streamCursor, upToDate, streamClosed}`; `id:` is the offset to resume from; comments "
        "break the silence. It ends after about a minute, to be resumed, and for good when the stream is closed. "
        "A JSON stream's events come as one array.",
        ("offset", "live", "cursor", "Last-Event-ID", "If-None-Match"),
        {200: Answer("The events, or none yet; with `live=sse`, all that come.", _READ, (*_ANY, "text/event-stream")),
         204: Answer("Long-poll: nothing new.", _POLLED),
         304: Answer("What the client has still holds.", ("ETag",))},
        (errors.StreamNotFound, errors.RunNotFound, errors.StreamGone, errors.Draining, errors.TooManyReaders,
         errors.TooManyReads, errors.TooManyStreams),
    ),
    "head": Operation(
        "A stream's metadata",
        "Where its tail is, whether it is closed, when it expires. Does not slide its TTL.",
        (),
        {200: Answer("It exists.", ("Content-Type", "Stream-Next-Offset", "Stream-Closed", "Stream-TTL",
                                    "Stream-Expires-At", "ETag", "Cache-Control"))},
        (errors.StreamNotFound, errors.StreamGone),
    ),
    "delete": Operation(
        "Delete a stream",
        "Forks keep what they inherited; as long as there are any, the path answers 410 and cannot be used again.",
        (),
        {204: Answer("Deleted.")},
        (errors.StreamNotFound, errors.StreamGone, errors.NotWritable, errors.StreamHeld),
    ),
    "options": Operation(
        "What pages of other origins may ask", "Answers for streams that do not exist too.", (),
        {204: Answer("CORS preflight.", ("Access-Control-Allow-Methods", "Access-Control-Allow-Headers",
                                         "Access-Control-Max-Age"))},
    ),
}  # fmt: skip

ROUTES: Final[dict[str, Json]] = {
    "/v1/stream/{path}": {
        "name": "path", "in": "path", "required": True, "schema": {"type": "string", "maxLength": MAX_PATH},
        "description": "The stream's path; it may contain slashes. No control characters. `__ds` is reserved.",
    },
    "/runs/{id}": {
        "name": "id", "in": "path", "required": True, "schema": {"type": "string", "maxLength": MAX_RUN_ID},
        "description": "The run: `/runs/<id>` is the stream `runs/<id>`. No control characters.",
    },
}  # fmt: skip

_REASON: Final = "A JSON object that may have a `reason`; or nothing."
BELOW_A_RUN: Final[dict[str, tuple[str, dict[str, Operation]]]] = {  # by route: a tag, and what is done there
    "/runs/{id}/control": ("control", {
        name: replace(op, refuses=(*op.refuses, errors.StreamNotFound)) if name == "put" else op  # without its run
        for name, op in OPERATIONS.items() if name != "delete"}),
    "/runs/{id}/cancel": ("cancel", {
        "post": Operation(
            "Ask a run to stop",
            "Appends a `cancel` event to the run's control stream, and tells the producer with each answer. Repeated "
            "it succeeds and appends nothing.",
            (), {202: Answer("It has been asked.")},
            (errors.RunNotFound, errors.StreamGone, errors.RunEnded, errors.BodyTooLarge, errors.NotWritable,
             errors.StreamHeld), _REASON),
        "options": OPERATIONS["options"]}),
    "/runs/{id}/token": ("token", {
        "post": Operation(
            "Make a token for a run's readers",
            "With AUTH on: a capability for this run alone, to be handed to a browser as `?token=` or as Bearer token. "
            "It cannot be taken back before it expires.",
            (), {201: Answer("The token, and when it expires in Unix seconds.", (), ("application/json",))},
            (errors.RunNotFound, errors.RouteNotFound, errors.StreamGone, errors.BodyTooLarge),
            "A JSON object that may have `control` (true: it may cancel the run too) and `ttl` (seconds); or nothing."),
        "options": OPERATIONS["options"]}),
    "/runs/{id}/heartbeat": ("heartbeat", {
        "post": Operation(
            "Give a sign of life",
            "What a producer that has nothing to append keeps its lease with. One that tells its epoch is told when "
            "another has taken over.",
            ("Run-Lease", "Producer-Id", "Producer-Epoch"), {204: Answer("The lease runs anew.", _WRITTEN)},
            (errors.StaleEpoch, errors.ProducerLost, errors.StreamNotFound, errors.StreamGone, errors.StreamClosed,
             errors.TooManyPending, errors.NotWritable, errors.StreamHeld)),
        "options": OPERATIONS["options"]}),
}  # fmt: skip

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
        document = get_openapi(title=api.title, version=api.version, description=api.description, routes=api.routes)
        document.setdefault("components", {}).setdefault("schemas", {})["Error"] = _ERROR
        for route, parameter in ROUTES.items():
            tag = "runs" if route.startswith("/runs") else "streams"
            operations = {name: _operation(name, operation, tag) for name, operation in OPERATIONS.items()}
            document["paths"][route] = {"parameters": [parameter]} | operations
        for route, (tag, below) in BELOW_A_RUN.items():
            operations = {name: _operation(name, operation, tag) for name, operation in below.items()}
            document["paths"][route] = {"parameters": [ROUTES["/runs/{id}"]]} | operations
        if auth:
            document["components"].setdefault("securitySchemes", {}).update(SECURITY)
            _secure(document)
        api.openapi_schema = document
    return api.openapi_schema


def _secure(document: Json) -> None:
    """What each operation asks for, as the gate has it; what bears a credential of its own says so already."""
    for route, operations in document["paths"].items():
        for method, operation in operations.items():
            if method not in ("parameters", "options"):
                need = need_of(route, method.upper())
                if need == "nothing":
                    operation["security"] = []
                elif need != "own":
                    in_url: list[Json] = (
                        [{"token": []}] if need in ("read", "control") and route.startswith("/runs/") else []
                    )
                    operation["security"] = [{"bearer": [need]}, *in_url]
                    operation["responses"] = _refusals((), beside=_AT_THE_GATE) | operation["responses"]


def _operation(method: str, operation: Operation, tag: str) -> Json:
    of_runs = {"runs": ("tail", "meta", "wait"), "control": ("tail",)}
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
    body = {"requestBody": {"description": operation.body, "content": _content(_ANY)}}
    return described | (body if operation.body else {})


def _parameter(name: str) -> Json:
    schema, text = ASKED[name]
    return {"name": name, "in": "query" if name in QUERY else "header", "schema": schema, "description": text}


def _answer(answer: Answer) -> Json:
    content = {"content": _content(answer.content)} if answer.content else {}
    return {"description": answer.text, "headers": _headers(answer.headers)} | content


def _refusals(
    own: tuple[type[ProtocolError], ...],
    *,
    bodyless: bool = False,
    beside: tuple[type[ProtocolError], ...] = _EVERYWHERE,
) -> Json:
    by_status: dict[int, list[type[ProtocolError]]] = {}
    for error in beside + own:
        by_status.setdefault(error.status, []).append(error)
    return {str(status): _refusal(status, by_status[status], bodyless) for status in sorted(by_status)}


def _refusal(status: int, classes: list[type[ProtocolError]], bodyless: bool) -> Json:
    names = list(dict.fromkeys(name for error in classes for name in REFUSED.get(error, ())))
    names += ["Retry-After"] if status in (429, 503) else []
    text = "\n".join(f"- `{error.type}`: {(error.__doc__ or '').strip()}" for error in classes)
    body = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {"description": text, "headers": _headers(names)} | ({} if bodyless else body)


def _headers(names: Sequence[str]) -> Json:
    return {name: {"schema": GIVEN[name][0], "description": GIVEN[name][1]} for name in names}


def _content(types: tuple[str, ...]) -> Json:
    return {type: {"schema": {} if type == "application/json" else TEXT} for type in types}
