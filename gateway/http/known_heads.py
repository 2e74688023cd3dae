"""Heads of POSTs that have come before: what such a head says is looked up by its bytes, and need not be parsed again.

Writers send the same headers again and again, each to many streams. So a head is kept without its first line, which is
taken apart here. That is exact: the parser has read the same bytes behind such a line, and what it makes of headers
does not depend on the URL before them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

MOST: Final = 1_024  # heads that are kept
LONGEST: Final = 1_024  # bytes of such a head
FIELDS: Final = 24  # headers of it
_VERSION: Final = b" HTTP/1.1"
_LINE: Final = b"\r\n"
_END: Final = b"\r\n\r\n"


class Head(NamedTuple):
    """A parsed head without its first line. `length`: bytes of the body."""

    headers: dict[bytes, bytes]
    length: int
    keep_alive: bool


class KnownHeads:
    """The heads that this process knows: those that came last are kept."""

    def __init__(self) -> None:
        self._heads: OrderedDict[bytes, Head] = OrderedDict()

    def find(self, packet: bytes) -> tuple[bytes, Head, bytes] | None:
        """URL, head and body of a packet that is one whole POST with a known head; None: it has to be parsed."""
        line, end = packet.find(_LINE), packet.find(_END)
        head = self._heads.get(packet[line:end])
        if head is None or len(packet) != end + 4 + head.length or not packet.startswith(_VERSION, line - 9):
            return None
        return packet[5 : line - 9], head, packet[end + 4 :]

    def learn(self, packet: bytes, head: Head, body: bytes) -> None:
        """Remembers what the parser has read of a packet that was one whole POST."""
        line, end = packet.find(_LINE), packet.find(_END)
        if end - line > LONGEST or len(head.headers) > FIELDS:
            return
        if packet[end + 4 :] != body or not packet.startswith(_VERSION, line - 9):
            return
        self._heads[packet[line:end]] = head
        if len(self._heads) > MOST:
            self._heads.popitem(last=False)
