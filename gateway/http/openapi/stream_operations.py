"""The stream routes in tables, for OpenAPI: their parameters, their answers, and their refusals.

FastAPI describes its routes by itself, but these are answered without it. Tests compare the tables with the parser, the
tree of errors and real answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from gateway import quotas
from gateway.auth import errors as auth_errors
from gateway.protocol import errors
from gateway.protocol.errors import ProtocolError
from gateway.protocol.fields import MAX_LEASE, MAX_SAFE_INTEGER, MAX_TOKEN
from gateway.protocol.target import MAX_PATH, MAX_RUN_ID

Json = dict[str, Any]

TEXT: Final[Json] = {"type": "string"}
TRUE: Final[Json] = {"type": "string", "const": "true"}
OFFSET: Final[Json] = {"type": "string", "examples": ["0000000000000000_0000000000000042"]}
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
SAFE: Final[Json] = {"type": "integer", "minimum": 0, "maximum": MAX_SAFE_INTEGER}
DATE: Final[Json] = {"type": "string", "format": "date-time"}
TOKEN: Final[Json] = {"type": "string", "minLength": 1, "maxLength": MAX_TOKEN}

# Before 3.2, OpenAPI has no word for a type that is a sequence: tools take the schema for that of each event.
EVENT_STREAM: Final[Json] = {
    "description": "Of each event, as the HTML standard frames it (§9.2).", "$ref": "#/components/schemas/Event",
}  # fmt: skip
EVENT_STREAM_SCHEMAS: Final[Json] = {
    "Frame": {
        "type": "object",
        "required": ["data"],
        "properties": {
            "event": {**TEXT, "description": "`message` for those without a name."},
            "id": {"type": "string", "description": "To resume from, by `Last-Event-ID`."},
            "data": {"type": "string", "description": "JSON."},
            "retry": {**COUNT, "description": "Milliseconds to wait before the client connects anew; said once."},
        },
    },
    "Event": {
        "type": "object",
        "required": ["event", "data", "id"],
        "properties": {
            "event": {"type": "string", "enum": ["data", "control", "message"]},
            "id": {"type": "string", "description": "The offset after this event, to resume from."},
            "data": {
                "type": "string",
                "description": "Of a `data` event: of a JSON stream an array of its events, of a text the text, of "
                "other streams base64. Of one without a name (`named=false`): one event. "
                "Of a `control` event: JSON as the schema Control has it.",
            },
            "retry": {**COUNT, "description": "Milliseconds to wait before the client connects anew; said once."},
        },
    },
    "Control": {
        "type": "object",
        "required": ["streamNextOffset"],
        "properties": {
            "streamNextOffset": OFFSET,
            "streamCursor": {**TEXT, "description": "To be sent back as `cursor`; absent once the stream is closed."},
            "upToDate": {"const": True, "description": "There was no more to read."},
            "streamClosed": {"const": True, "description": "The stream has ended here, for good."},
        },
    },
}
"""The schema of an event stream, to be referred to."""

# Headers and query parameters of requests: their schema, and what they mean.
REQUEST_FIELDS: Final[dict[str, tuple[Json, str]]] = {
    "Content-Type": (TEXT, "PUT: the stream's type; omitted: application/octet-stream. POST: must be the stream's."),
    "Stream-Closed": (TRUE, "`true`: the stream is closed, after the body if there is one; in a GET, that it was."),
    "Stream-TTL": (COUNT, "Seconds that the stream lives after its last read or write. Not with Stream-Expires-At."),
    "Stream-Expires-At": (DATE, "When the stream ends (RFC 3339). Not together with Stream-TTL."),
    "Stream-Forked-From": (TEXT, "Path of the URL of the stream, on this server, to fork from."),
    "Stream-Fork-Offset": (OFFSET, "Where the fork leaves its source; its tail when omitted."),
    "Stream-Fork-Sub-Offset": (COUNT, "So many messages (JSON) or bytes (else) past Stream-Fork-Offset."),
    "Stream-Seq": (TOKEN, "Must be greater, bytewise, than the stream's last one, whichever producer wrote it."),
    "Producer-Id": (TOKEN, "An idempotent producer's name. The three Producer headers go together."),
    "Producer-Epoch": (SAFE, "Counted up when the producer restarts; a lower one than the last is refused."),
    "Producer-Seq": (SAFE, "Counts the producer's requests from 0 in each epoch; a repeated one appends nothing."),
    "Run-Lease": ({"type": "integer", "minimum": 1, "maximum": MAX_LEASE}, "Runs: the producer promises a sign of life "
                  "at least every so many seconds, until it promises otherwise. When broken, the run is ended."),
    "Last-Event-ID": (OFFSET, "With `live=sse`: goes before `offset`. A browser's EventSource sends it by itself."),
    "If-None-Match": (TEXT, "The ETag of an answer that the client has; the answer is 304 when it still holds."),
    "Stream-Next-Offset": (OFFSET, "Of an append that was acknowledged: what is read near has that much."),
    "offset": (TEXT, "Where to start: an offset that was given out, `-1` (the start, as when omitted) or `now`."),
    "live": ({"type": "string", "enum": ["long-poll", "sse"]}, "How to go on at the tail; needs an offset."),
    "cursor": (TEXT, "The last Stream-Cursor; the next one is greater."),
    "fold": ({**TEXT, "examples": ["type,id:text"]}, "Of a JSON stream: consecutive events that are there already, and "
             "whose fields before the colon are equal, are one, whose texts behind it are joined. Offsets stay as they "
             "are."),
    "tail": ({"type": "integer", "minimum": 1}, "With `offset=-1`: at most so many of the last events."),
    "meta": ({}, "The run's record instead of its events; no value is needed. `activity` adds how many events and "
             "bytes its stream holds, how many read it at this Machine, and the last sign of life under a lease."),
    "wait": ({"type": "number", "minimum": 0, "maximum": 300}, "With `live`: waits so many seconds for a stream that "
             "is not there yet. Of a run with `meta`: answers when the run has ended, or after so many seconds."),
    "named": ({"type": "string", "enum": ["true", "false"]}, "`false`: each event of an event stream comes alone and "
              "without a name, so that `onmessage` hears of it; `control` events keep their name."),
}  # fmt: skip
QUERY_PARAMETERS: Final = ("offset", "live", "cursor", "fold", "named", "wait", "tail", "meta")

# Headers of responses: the same.
RESPONSE_HEADERS: Final[dict[str, tuple[Json, str]]] = {
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
    "Vary": (TEXT, "`accept`: an event stream may be at the same URL; `accept-encoding`: it may be compressed."),
    "Content-Encoding": (TEXT, "How a page of 1 kB or more is compressed, as `Accept-Encoding` has it: zstd or gzip."),
    "Cache-Control": (TEXT, "Private, unless all may read it; at the tail of an open stream to be asked for again."),
    "Location": ({"type": "string", "format": "uri"}, "The stream's absolute URL."),
    "WWW-Authenticate": (TEXT, "How to be let in, and why not (RFC 6750)."),
    "Retry-After": ({"type": "integer", "minimum": 1}, "Seconds, different for each client, to wait."),
    "Accept-Encoding": (TEXT, "How a body may be coded: `identity`, as it is."),
    "Access-Control-Allow-Methods": (TEXT, "The methods that there are."),
    "Access-Control-Allow-Headers": (TEXT, "The headers that pages of other origins may send."),
    "Access-Control-Max-Age": (COUNT, "Seconds that a browser may remember this."),
}  # fmt: skip

Refusals = tuple[type[ProtocolError], ...]

_OF_CREDENTIALS: Final[Refusals] = (
    auth_errors.CredentialMissing, auth_errors.CredentialMalformed, auth_errors.TokenInvalid, auth_errors.TokenExpired,
    auth_errors.ScopeMissing, auth_errors.WrongStream,
)  # fmt: skip
AT_THE_GATE: Final[Refusals] = (*_OF_CREDENTIALS, auth_errors.IssuerUnavailable)
"""Refusals of every route while AUTH is on."""

EVERYWHERE: Final[Refusals] = (
    errors.InvalidRequest, quotas.TooManyRequests, errors.InternalFault, errors.Unavailable, *AT_THE_GATE,
)  # fmt: skip
"""Refusals of every stream route."""

REFUSAL_HEADERS: Final[dict[type[ProtocolError], tuple[str, ...]]] = {
    errors.StaleEpoch: ("Producer-Epoch",),
    errors.ProducerLost: ("Stream-Closed", "Stream-Next-Offset", "Producer-Epoch"),
    errors.StreamClosed: ("Stream-Closed", "Stream-Next-Offset"),
    errors.OffsetGone: ("Stream-Next-Offset",),
    errors.UnsupportedCoding: ("Accept-Encoding",),
    errors.ProducerSequenceGap: ("Producer-Expected-Seq", "Producer-Received-Seq"),
    **dict.fromkeys(_OF_CREDENTIALS, ("WWW-Authenticate",)),
}
"""Headers that a refusal has besides those that all have."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: what it means, names of its RESPONSE_HEADERS, and content types that its body may have."""

    text: str
    headers: tuple[str, ...] = ()
    content: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a route. `asks`: names of its REQUEST_FIELDS. `body`: what its body holds. `refuses`: its refusals
    besides EVERYWHERE.
    """

    summary: str
    text: str
    asks: tuple[str, ...]
    answers: dict[int, Answer]
    refuses: Refusals = ()
    body: str | None = None


TYPES: Final = ("application/json", "text/plain", "application/octet-stream")
_WRITTEN: Final = ("Stream-Next-Offset", "Stream-Closed", "Producer-Epoch", "Producer-Seq", "Run-Cancel-Requested")
_CREATED: Final = ("Content-Type", "Stream-Next-Offset", "Stream-Closed")
_POLLED: Final = ("Stream-Next-Offset", "Stream-Up-To-Date", "Stream-Closed", "Stream-Cursor", "Cache-Control")
_READ: Final = (*_POLLED, "Content-Type", "Stream-SSE-Data-Encoding", "ETag", "Vary", "Content-Encoding")

OPERATIONS: Final[dict[str, Operation]] = {
    "put": Operation(
        "Create a stream, or make sure of it",
        "With Stream-Forked-From it is a fork: it inherits its source's events up to the fork offset, and its type and "
        "expiry when it is given none. Repeated with the same configuration it succeeds and appends nothing.",
        ("Content-Type", "Stream-Closed", "Stream-TTL", "Stream-Expires-At", "Stream-Forked-From",
         "Stream-Fork-Offset", "Stream-Fork-Sub-Offset", "Run-Lease"),
        {201: Answer("Created.", (*_CREATED, "Location")), 200: Answer("It exists as asked for.", _CREATED)},
        (errors.InvalidJson, errors.ForkOffsetBeyondTail, errors.ForkSubOffsetBeyondData, errors.SourceNotFound,
         errors.StreamExists, errors.PathBlocked, errors.SourceGone, errors.TooManyForks, errors.ForkTooDeep,
         errors.ContentTypeMismatch, errors.BodyTooLarge, errors.UnsupportedCoding, errors.CodingNotSupported,
         errors.BatchTooLarge, errors.EventTooLarge, quotas.TooManyCreates, quotas.TooManyRuns,
         errors.TooManyPending, errors.TooManyReads, errors.NotWritable, errors.StreamHeld),
        "The first events, as in an append; a JSON stream also takes an empty array, for none.",
    ),
    "post": Operation(
        "Append, close, or both",
        "Answered when it is durable. In a JSON stream each element of an array is an event; in others the body is. An "
        "empty body is right only with `Stream-Closed: true`. With Producer headers a repetition is applied once; an "
        "answer of 503 leaves the outcome open, unless its `type` is `not_sent`, `not_writable` or `stream_held`.",
        ("Content-Type", "Stream-Closed", "Stream-Seq", "Producer-Id", "Producer-Epoch", "Producer-Seq", "Run-Lease"),
        {200: Answer("A producer's new events were appended.", _WRITTEN),
         204: Answer("Appended or closed; for a producer: closed, or known already.", _WRITTEN)},
        (errors.InvalidJson, errors.NewEpochMustStartAtZero, errors.StaleEpoch, errors.ProducerLost,
         errors.StreamNotFound, errors.StreamClosed, errors.ContentTypeMismatch, errors.StreamSeqConflict,
         errors.ProducerSequenceGap, errors.StreamGone, errors.BodyTooLarge,
         errors.UnsupportedCoding, errors.BatchTooLarge,
         errors.EventTooLarge, quotas.TooManyAppends, errors.TooManyPending,
         errors.TooManyReads, errors.NotSent, errors.NotWritable, errors.StreamHeld),
        "The events, in the stream's content type.",
    ),
    "get": Operation(
        "Read, and follow",
        "Without `live`: a page of what comes after the offset. `live=long-poll` waits where there is nothing yet, and "
        "answers 204 when nothing came. `live=sse` is an event stream: `data` events, each with a `control` one after "
        "it, `{streamNextOffset, streamCursor, upToDate, streamClosed}`; `id:` is the offset to resume from; comments "
        "break the silence. It ends after about a minute, to be resumed, and for good when the stream is closed. "
        "A JSON stream's events come as one array. With `text/event-stream` before all other types in `Accept`, it is "
        "an event stream without `live`, and from the start without `offset`.",
        ("offset", "live", "cursor", "fold", "named", "wait", "Last-Event-ID", "If-None-Match", "Stream-Next-Offset",
         "Stream-Closed"),
        {200: Answer("The events, or none yet; with `live=sse`, all that come.", _READ, (*TYPES, "text/event-stream")),
         204: Answer("Long-poll: nothing new.", _POLLED),
         304: Answer("What the client has still holds.", ("ETag", "Vary", "Cache-Control"))},
        (errors.StreamNotFound, errors.RunNotFound, errors.StreamGone, errors.OffsetGone, errors.Draining,
         errors.TooManyReaders, errors.TooManyReads, quotas.TooManyStreams),
    ),
    "head": Operation(
        "A stream's metadata",
        "Where its tail is, whether it is closed, when it expires. Does not slide its TTL.",
        (),
        {200: Answer("It exists.", ("Content-Type", "Stream-Next-Offset", "Stream-Closed", "Stream-TTL",
                                    "Stream-Expires-At", "ETag", "Cache-Control"))},
        (errors.StreamNotFound, errors.StreamGone, errors.TooManyReads),
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

STREAM_ROUTES: Final[dict[str, Json]] = {
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
            (errors.RunNotFound, errors.StreamGone, errors.RunEnded, errors.BodyTooLarge,
         errors.UnsupportedCoding, errors.CodingNotSupported, errors.TooManyPending,
             errors.NotWritable, errors.StreamHeld), _REASON),
        "options": OPERATIONS["options"]}),
    "/runs/{id}/token": ("token", {
        "post": Operation(
            "Make a token for a run's readers",
            "With AUTH on: a capability for this run alone, to be handed to a browser as `?token=` or as Bearer token. "
            "It cannot be taken back before it expires.",
            (), {201: Answer("The token, and when it expires in Unix seconds.", (), ("application/json",))},
            (errors.RunNotFound, errors.RouteNotFound, errors.StreamGone, errors.BodyTooLarge,
         errors.UnsupportedCoding,
             errors.TooManyPending),
            "A JSON object that may have `control` (true: it may cancel the run too) and `ttl` (seconds); or nothing."),
        "options": OPERATIONS["options"]}),
    "/runs/{id}/heartbeat": ("heartbeat", {
        "post": Operation(
            "Give a sign of life",
            "What a producer that has nothing to append keeps its lease with. One that tells its epoch is told when "
            "another has taken over.",
            ("Run-Lease", "Producer-Id", "Producer-Epoch"), {204: Answer("The lease runs anew.", _WRITTEN)},
            (errors.StaleEpoch, errors.ProducerLost, errors.StreamNotFound, errors.StreamGone, errors.StreamClosed,
             errors.TooManyPending, errors.NotSent, errors.NotWritable, errors.StreamHeld)),
        "options": OPERATIONS["options"]}),
}  # fmt: skip
