"""Offsets: positions in a stream as opaque, fixed-width, bytewise sortable tokens (§8).

Inside the gateway a position is a number: how many events lie before it. On the wire it is two zero-padded numbers,
`0000000000000000_0000000000000042`; the first one is always zero until positions outgrow 16 digits.
"""

from __future__ import annotations

import re
from typing import Final

START: Final = 0
NOW: Final = -2  # the sentinel `now`: the tail as it stands when the log is read
_WIDTH: Final = 10**16
MAX_POSITION: Final = 2**62  # a position has to fit the database's bigint
_TOKEN: Final = re.compile(rb"([0-9]{1,16})_([0-9]{1,16})")


def format_offset(position: int) -> bytes:
    """The token of a position: fixed width, so that comparing bytes compares positions (§8, property 2)."""
    return b"%016d_%016d" % divmod(position, _WIDTH)


def parse_position(token: bytes) -> int | None:
    """The position that a token names, or None when it is no such token. Knows no sentinels."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    return min(int(match[1]) * _WIDTH + int(match[2]), MAX_POSITION)


def parse_offset(token: bytes) -> int | None:
    """Like `parse_position`, and with the sentinels: `-1` is the start, `now` is `NOW` (§8)."""
    if token == b"-1":
        return START
    if token == b"now":
        return NOW
    return parse_position(token)
