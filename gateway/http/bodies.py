"""A request's body, whole and within its limit."""

from __future__ import annotations

from gateway.asgi import Receive, Scope
from gateway.protocol.errors import BodyTooLarge, InvalidRequest


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """At most `limit` bytes. Raises BodyTooLarge, or InvalidRequest when the request was cut off."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise BodyTooLarge(f"At most {limit} bytes.")
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        parts = bytearray(body)
        while message.get("more_body", False) and len(parts) <= limit:
            message = await receive()
            parts += message.get("body", b"")
        body = bytes(parts)
    if message["type"] == "http.disconnect":
        raise InvalidRequest("The request was cut off.")  # half a body is no body: nothing is appended
    if len(body) > limit:
        raise BodyTooLarge(f"At most {limit} bytes.")
    return body
