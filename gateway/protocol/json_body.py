"""JSON mode (§9.1): a body as the messages that it holds, each as the very bytes that came.

Messages are judged by parsing, and stored as they were written: numbers keep their digits, objects their order.
Only line breaks become spaces, since an SSE frame is made of lines; JSON allows them nowhere but between tokens.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from gateway.protocol.errors import BatchTooLarge, InvalidJson

_CR, _LF = b"\r\n"  # as numbers: to look for a byte by its bytes takes ten times as long
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
# What matters for finding the commas between elements: whole strings, brackets and commas.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]')
_BETWEEN_OBJECTS: Final = re.compile(rb"\}[ \t]*,[ \t]*\{")


def messages(body: bytes, *, may_be_empty: bool = False, most: int | None = None) -> list[bytes]:
    """The messages of a body: one level of an array is flattened (§9.1.2).

    `may_be_empty`: whether an empty array is allowed, as in a PUT, but not in a POST (§9.1.3). Raises InvalidJson when
    the body is not JSON (RFC 8259), is nested too deep, or is an empty array where that is not allowed. Raises
    BatchTooLarge, before it takes them apart, when there are more than `most`.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"{error.msg} at line {error.lineno}, column {error.colno}.") from None
    if most is not None and isinstance(value, list) and len(value) > most:
        raise BatchTooLarge(f"At most {most} events.")
    if _LF in body or _CR in body:
        body = body.translate(_ONE_LINE)
    body = body.strip(b" \t")
    if not isinstance(value, list):
        return [body]
    if not value:
        if not may_be_empty:
            raise InvalidJson("An empty array appends nothing.")
        return []  # now: `[ ]` is not what dumping gives, so it would be split below, into one event of no bytes
    if len(value) == 1:
        return [body[1:-1].strip(b" \t")]
    # Compact JSON, which most clients send, comes back byte for byte from dumping each element. The copies (b"%b")
    # matter: what `dumps` returns keeps its whole buffer alive, a kilobyte or more.
    try:
        elements = [b"%b" % orjson.dumps(element) for element in value]
    except orjson.JSONEncodeError:
        return _split(body, value)  # orjson reads 1,024 levels of nesting, and writes no more than 254
    if b"[%b]" % b",".join(elements) == body:
        return elements
    return _split(body, value)


def _split(array: bytes, value: list[object]) -> list[bytes]:
    """The elements of a valid, non-empty JSON array, cut at its own commas. `value`: what it means."""
    if set(map(type, value)) == {dict}:
        # This stands between any two objects, and no two places where it stands share a byte. So when it stands in no
        # more places than that, it stands in no string, and in none of the objects.
        insides = _BETWEEN_OBJECTS.split(array[1:-1].strip(b" \t")[1:-1])
        if len(insides) == len(value):
            return [b"{%b}" % inside for inside in insides]
    elements: list[bytes] = []
    depth = 0
    start = 1
    for match in _TOKEN.finditer(array):
        token = array[match.start()]
        if token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
        elif token == 0x2C and depth == 1:
            elements.append(array[start : match.start()].strip(b" \t"))
            start = match.end()
    elements.append(array[start:-1].strip(b" \t"))
    return elements
