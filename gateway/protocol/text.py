"""Text in event streams, where two appends meet in the middle of a character or of a line break.

Each event of an event stream is decoded by itself. So a character that is cut between two appends is shown with the
second of them, and a CRLF that is cut is one line break, which is shown with its CR. Both follow from the last bytes
before a position alone: every reader that passes it gets the same text, live and late, here and on other Machines. A
character that is never finished is not shown; a plain read has its bytes.
"""

from __future__ import annotations

import re
from typing import Final

EDGE: Final = 3
"""Bytes before a position that matter: a character of four bytes is cut after three of them at most."""

# The beginnings of characters (Unicode, table 3-7). Whatever else is no UTF-8 becomes U+FFFD, cut or not.
_UNFINISHED: Final = re.compile(
    rb"(?:[\xc2-\xdf]|\xe0[\xa0-\xbf]?|[\xe1-\xec\xee\xef][\x80-\xbf]?|\xed[\x80-\x9f]?"
    rb"|\xf0(?:[\x90-\xbf][\x80-\xbf]?)?|[\xf1-\xf3](?:[\x80-\xbf]{1,2})?|\xf4(?:[\x80-\x8f][\x80-\xbf]?)?)\Z"
)
_CHARSET: Final = re.compile(r';[\t ]*charset="?([^";\t ]*)', re.IGNORECASE)
_UTF8: Final = frozenset(("utf-8", "utf8", "us-ascii", "ascii", ""))  # ASCII is UTF-8


def is_utf8(content_type: str) -> bool:
    """True if a text of this content type is UTF-8, which it is by default: event streams know no other encoding."""
    charset = _CHARSET.search(content_type)
    return charset is None or charset[1].lower() in _UTF8


def edge(before: bytes, body: bytes) -> bytes:
    """The last bytes before the end of a body; `before`: those before its start."""
    return body[-EDGE:] if len(body) >= EDGE else (before + body)[-EDGE:]


def shown(before: bytes, body: bytes) -> bytes:
    """The part of a body that is shown: without bytes that were shown before, or that cannot be shown yet."""
    if before.endswith(b"\r"):
        return characters(before, body).removeprefix(b"\n")
    return characters(before, body)


def characters(before: bytes, body: bytes) -> bytes:
    """The whole characters of a body, with what `before` has of the first; its line breaks as they are."""
    begun, unfinished = _UNFINISHED.search(before), _UNFINISHED.search(edge(before, body))
    if begun is not None:
        body = begun[0] + body
    return body if unfinished is None else body[: -len(unfinished[0])]
