"""Bodies of requests, looked at in pieces: a large one holds up nobody.

Pure. Of a large object its members are found one after the other, and the small ones among them are read: a key, or a
field that a row asks for, is small.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.protocol.errors import ProtocolError
from gateway.protocol.json_body import members_in_pieces, value_of

AT_ONCE: Final = 128 << 10  # bytes of JSON that are read in one piece
MEMBERS: Final = 1_000  # of an object that is taken apart


def value_in_pieces(body: bytes) -> Generator[None, None, Any]:
    """Parses as much of a JSON body as rows look at: of a large one, without its large members. None: it is no JSON, or
    large and no object.
    """
    if len(body) <= AT_ONCE:
        return _value(body)
    try:
        members = yield from members_in_pieces(body, MEMBERS)
    except ProtocolError:
        return None
    return {name: _value(member) for name, member in members.items() if len(member) <= AT_ONCE}


def altered_in_pieces(body: bytes, dropped: Sequence[str], more: Mapping[str, Any]) -> Generator[None, None, bytes]:
    """A JSON object without these of its members, and with `more`; the others are as they were written.

    Raises ProtocolError.
    """
    members = yield from members_in_pieces(body, MEMBERS)
    kept = {name: value for name, value in members.items() if name not in dropped}
    kept |= {name: orjson.dumps(value) for name, value in more.items()}
    return b"{%b}" % b",".join([b"%b:%b" % (orjson.dumps(name), value) for name, value in kept.items()])


def _value(text: bytes) -> Any:
    try:
        return value_of(text)
    except ValueError:
        return None
