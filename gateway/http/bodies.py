"""Requests' bodies: each whole and within its limit, and all that are arriving within one of their own."""

from __future__ import annotations

from typing import Final

from gateway.asgi import Receive, Scope
from gateway.fanout.follower import EXTENSION
from gateway.protocol.errors import BodyTooLarge, InvalidRequest, TooManyPending, UnsupportedCoding
from gateway.wire.intake import Intake


class Bodies:
    """The bodies that are arriving at one worker, together at most `most` bytes.

    Without this limit, clients that begin large bodies and never end them make the worker keep one for each connection.
    A connection of our own server counts its bytes by itself, as they come (`gateway.wire.intake`), whatever reads
    them; under another server this counts what it reads. A lone body is taken in any case.
    """

    def __init__(self, most: int) -> None:
        self.held = 0
        self._most: Final = most

    def over(self, own: int) -> bool:
        """True if more bytes are arriving than `most`, and not only the `own` bytes of the connection that asks."""
        return self.held > self._most and self.held > own

    async def read(self, scope: Scope, receive: Receive, limit: int) -> bytes:
        """Reads a body of at most `limit` bytes. Raises BodyTooLarge, TooManyPending, UnsupportedCoding, or
        InvalidRequest for half a body.
        """
        length, coding = 0, b""
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = int(value)
            elif name == b"transfer-encoding":
                length = length or 1
            elif name == b"content-encoding":
                coding += value
        if length > limit:
            raise BodyTooLarge(f"At most {limit} bytes.")
        if coding and length and not plain(coding):
            raise UnsupportedCoding
        message = await receive()
        body: bytes = message.get("body", b"")
        if message.get("more_body", False):
            body = await self._rest(body, receive, limit, scope.get("extensions", {}).get(EXTENSION))
        elif message["type"] == "http.disconnect":
            raise _cut_off()
        if len(body) > limit:
            raise BodyTooLarge(f"At most {limit} bytes.")
        return body

    async def _rest(self, begun: bytes, receive: Receive, limit: int, connection: Intake | None) -> bytes:
        parts, held = bytearray(begun), 0
        try:
            more = True
            while more and len(parts) <= limit:
                if connection is None:
                    held, before = len(parts), held
                    self.held += held - before
                if self.over(held if connection is None else connection.own):
                    raise TooManyPending(f"At most {self._most} bytes of bodies may be arriving.")
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _cut_off()
                more = message.get("more_body", False)
                parts += message.get("body", b"")
            return bytes(parts)
        finally:
            self.held -= held


def plain(coding: bytes) -> bool:
    """True if a Content-Encoding says that the body is not encoded. Codings are not undone: readers are given the very
    bytes that came, and limits are those of what is sent.
    """
    return coding.strip(b" \t").lower() in (b"", b"identity")


def _cut_off() -> InvalidRequest:
    return InvalidRequest("The request was cut off.")  # half a body is no body: nothing is appended
