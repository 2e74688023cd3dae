"""A request's body as it arrives, kept for a second sending as long as it is small."""

from __future__ import annotations

from typing import Final

from gateway.asgi import Message, Receive

MOST: Final = 64 << 10
"""Bytes of a body that are kept."""


class Tape:
    """A request's `receive`. `rewind` has it begin again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: list[Message] | None = []
        self._size = 0
        self._at = 0

    async def __call__(self) -> Message:
        if self._kept is not None and self._at < len(self._kept):
            self._at += 1
            return self._kept[self._at - 1]
        message = await self._receive()
        if self._kept is not None and message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > MOST:
                self._kept = None  # what has come is no longer all there
            else:
                self._kept.append(message)
                self._at += 1
        return message

    def rewind(self) -> bool:
        """Begins again. False: too much has come already."""
        self._at = 0
        return self._kept is not None
