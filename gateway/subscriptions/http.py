"""Bodies in and answers out for the subscription APIs."""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from gateway.asgi import Receive, Scope, Send
from gateway.http import responses
from gateway.http.bodies import Bodies
from gateway.subscriptions.errors import invalid

PREFIX: Final = "/v1/stream/__ds"

MAX_BODY: Final = 256 << 10  # bytes: what is parsed at once must not hold the loop


class Preflight(Response):
    """The answer to OPTIONS."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await responses.preflight(scope, send)


async def body(request: Request, bodies: Bodies) -> object:
    """The request's JSON; an empty body is an empty object. Raises Refusal, and what `Bodies.read` raises."""
    read = await bodies.read(request.scope, request.receive, MAX_BODY)
    if not read:
        return {}
    try:
        return orjson.loads(read)
    except orjson.JSONDecodeError:
        raise invalid("Invalid JSON body") from None


def answer(status: int, content: bytes, content_type: str, cache_control: str = "no-store") -> Response:
    """A response with these headers, and none of the framework's."""
    response = Response(status_code=status)
    response.body = content
    response.raw_headers = [(b"cache-control", cache_control.encode())]
    if status != 204:
        response.raw_headers += [
            (b"content-type", content_type.encode()),
            (b"content-length", b"%d" % len(content)),
        ]
    return response


def json(status: int, document: dict[str, Any]) -> Response:
    """A JSON object."""
    return answer(status, orjson.dumps(document), "application/json")


def empty() -> Response:
    """204."""
    return answer(204, b"", "")
