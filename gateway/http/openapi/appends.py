"""`POST /v1/appends` for OpenAPI: what its lines are. `gateway.http.appends` answers it; it never comes here."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import Response

from gateway.http.appends import ROUTE
from gateway.http.openapi.stream_operations import OFFSET, SAFE, TOKEN
from gateway.protocol.appends import CONTENT_TYPE
from gateway.protocol.fields import MAX_LEASE
from gateway.protocol.target import MAX_PATH

_LEASE: Final = {"type": "integer", "minimum": 1, "maximum": MAX_LEASE}
_HEAD: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["stream"],
    "additionalProperties": False,
    "properties": {
        "stream": {
            "type": "string",
            "maxLength": MAX_PATH,
            "description": "The stream's path, such as `runs/17`, or `runs/17/heartbeat` for a sign of life.",
        },
        "producerId": TOKEN,
        "producerEpoch": SAFE,
        "producerSeq": SAFE,
        "streamSeq": TOKEN,
        "streamClosed": {"type": "boolean", "description": "true: the stream is closed, after the events if any."},
        "runLease": _LEASE,
    },
}
_OUTCOME: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["append", "status"],
    "properties": {
        "append": {"type": "integer", "minimum": 0, "description": "Which append, counted from 0."},
        "status": {"type": "integer", "description": "That of a POST of its own."},
        "error": {"type": "object", "description": "The refusal, as it is within the `error` of any other."},
        "streamNextOffset": OFFSET,
        "streamClosed": {"const": True},
        "producerEpoch": SAFE,
        "producerSeq": SAFE,
        "producerExpectedSeq": SAFE,
        "producerReceivedSeq": SAFE,
        "runCancelRequested": {"const": True, "description": "The run has been asked to stop."},
        "retryAfter": {"type": "integer", "description": "Seconds to wait before this append is sent again."},
    },
}
_EXAMPLE: Final = """\
{"stream":"runs/17","producerId":"agent","producerEpoch":0,"producerSeq":4}
[{"type":"token","text":"Hel"},{"type":"token","text":"lo"}]
{"stream":"runs/18","streamClosed":true}

{"stream":"runs/19/heartbeat"}

"""
_ANSWER: Final = """\
{"append":1,"status":404,"error":{"type":"stream_not_found","message":"There is no such stream.","details":null}}
{"append":0,"status":200,"streamNextOffset":"0000000000000000_0000000000000009","producerEpoch":0,"producerSeq":4}
{"append":2,"status":204,"streamNextOffset":"0000000000000000_0000000000000003"}
"""


def _lines(schema: dict[str, Any], example: str) -> dict[str, Any]:
    told = {"type": "string", "contentMediaType": CONTENT_TYPE, "contentSchema": schema}
    return {CONTENT_TYPE: {"schema": told, "example": example}}


def _refusal(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def appends_router() -> APIRouter:
    """The route, and what OpenAPI says of it."""
    router = APIRouter(tags=["streams"])

    @router.post(
        ROUTE,
        response_class=Response,
        summary="Append to many JSON streams at once",
        description="Two lines for each append: an object that says what the URL and the headers of a POST to the"
        " stream would say, and the body of that POST, or an empty line. Each append is judged by itself, and becomes"
        " what that POST would become; appends to one stream keep their order. There is a line in the answer for each"
        " append, in the order in which their outcomes come. Sent again as it was, it appends nothing twice that has a"
        " producer.",
        openapi_extra={"requestBody": {"required": True, "content": _lines(_HEAD, _EXAMPLE)}},
        responses={
            200: {"description": "The outcomes.", "content": _lines(_OUTCOME, _ANSWER)},
            400: _refusal("`invalid_request`: the body is not made of such lines; nothing was appended"),
            413: _refusal("`body_too_large`, `batch_too_large`: of all appends together; nothing was appended"),
            415: _refusal("`unsupported_coding`"),
            429: _refusal("`too_many_requests`, `too_many_pending`"),
        },
    )
    async def append() -> None:
        raise NotImplementedError

    return router
