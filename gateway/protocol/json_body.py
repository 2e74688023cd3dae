"""JSON mode (§9.1): a body as the messages that it holds, each as the very bytes that came.

Messages are judged by parsing, and stored as they were written: numbers keep their digits, objects their order.
Only line breaks, which JSON allows between tokens alone, become spaces: an SSE frame is made of lines.
"""

from __future__ import annotations

import re
from typing import Final

import orjson

from gateway.protocol.errors import InvalidJson

_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
# What matters for finding the commas between elements: whole strings, brackets and commas.
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]')


def messages(body: bytes, *, may_be_empty: bool = False) -> list[bytes]:
    """The messages of a body: one level of an array is flattened (§9.1.2).

    An empty array is no message at all: right in a PUT, refused in a POST (§9.1.3), as `may_be_empty` says.
    Raises InvalidJson when the body is not JSON (RFC 8259), too deep, or an empty array where it must not be.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"{error.msg} at line {error.lineno}, column {error.colno}.") from None
    if b"\n" in body or b"\r" in body:
        body = body.translate(_ONE_LINE)
    body = body.strip(b" \t")
    if not isinstance(value, list):
        return [body]
    if not value:
        if not may_be_empty:
            raise InvalidJson("An empty array appends nothing.")
        return []  # here, for `[ ]` is not what dumping gives, and would be split into one event of no bytes
    if len(value) == 1:
        return [body[1:-1].strip(b" \t")]
    # Compact JSON, which most clients send, comes back byte for byte from dumping each element. The copies (b"%b")
    # matter: a result of dumps keeps its whole buffer of a kilobyte or more alive.
    try:
        elements = [b"%b" % orjson.dumps(element) for element in value]
    except orjson.JSONEncodeError:
        return _split(body)  # it reads what is nested 1,024 deep, and writes no more than 254
    if b"[%b]" % b",".join(elements) == body:
        return elements
    return _split(body)


def _split(array: bytes) -> list[bytes]:
    """The elements of a valid, non-empty JSON array, cut at its own commas."""
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
