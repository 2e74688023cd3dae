"""The tokens that readers are given to come back with: offsets and cursors.

Offsets are positions in a stream as opaque, fixed-width, bytewise sortable tokens (§8). Cursors are numbers that move
with time, so that a cache never serves one answer for ever (§10.1).

Inside the gateway a position is a number, and comparing numbers compares positions: the low 40 bits count the events
before it, the rest is the epoch of the log in which the last of them was written. On the wire the two stand side by
side, zero-padded: `0000000000000000_0000000000000042`. The epoch is zero until the database has moved to another server
(log/sql/functions/epochs.sql), and an event keeps the offset that it was given.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

START: Final = 0
NOW: Final = -2  # the sentinel `now`: the tail as it stands when the log is read
_COUNT_BITS: Final = 40
COUNT: Final = (1 << _COUNT_BITS) - 1
MAX_POSITION: Final = 2**62 - 1  # a position has to fit the database's bigint; no stream has this one
_TOKEN: Final = re.compile(rb"([0-9]{1,16})_([0-9]{1,16})")

INTERVAL: Final = 20  # seconds for which a cursor stays
CURSOR_EPOCH: Final = 1728432000  # 2024-10-09T00:00:00Z, seconds since 1970
MAX_JITTER: Final = 3600  # seconds
_CURSOR: Final = re.compile(rb"[0-9]{1,15}")


@lru_cache(maxsize=4_096)  # an append's is told to its writer and to its readers
def format_offset(position: int) -> bytes:
    """The token of a position: fixed width, so that comparing bytes compares positions (§8, property 2)."""
    return b"%016d_%016d" % (position >> _COUNT_BITS, position & COUNT)


def parse_position(token: bytes) -> int | None:
    """The position that a token names, or None when it is no such token. Knows no sentinels."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    epoch, count = int(match[1]), int(match[2])
    return min(epoch << _COUNT_BITS | count, MAX_POSITION) if count <= COUNT else MAX_POSITION


def parse_offset(token: bytes) -> int | None:
    """The position of a token, as `parse_position`, or of a sentinel: `-1` is the start, `now` is `NOW` (§8)."""
    if token == b"-1":
        return START
    if token == b"now":
        return NOW
    return parse_position(token)


def split(position: int) -> tuple[int, int]:
    """The epoch of a position, and the number of events before it."""
    return position >> _COUNT_BITS, position & COUNT


def join(epoch: int, count: int) -> int:
    """The position that `split` took apart. Raises ValueError for a number of events that no position has."""
    if count > COUNT:
        raise ValueError("no stream has as many events")
    return epoch << _COUNT_BITS | count


def events_between(start: int, end: int) -> int:
    """The number of events between two positions of a stream."""
    return (end & COUNT) - (start & COUNT)


def same_epoch(one: int, other: int) -> bool:
    """True if the events that end at the two positions were written in one epoch of the log."""
    return one >> _COUNT_BITS == other >> _COUNT_BITS


# Cursors


def parse_cursor(token: bytes) -> int | None:
    """A client's cursor, or None when it is none of ours."""
    return int(token) if _CURSOR.fullmatch(token) else None


def cursor_at(now: float, client: int | None, count: int) -> int:
    """The next cursor of an answer that ends behind `count` events, and that a cache gives to others.

    It is greater than the client's own, as that of `cursor` is, but not by chance: all who have read as far wait at the
    same address, whichever Machine answered them, so that a cache asks once for all of them.
    """
    found = int(now - CURSOR_EPOCH) // INTERVAL + count
    return found if client is None or client < found else client + 1


def cursor(now: float, client: int | None, jitter: float) -> int:
    """The next cursor: that of the time `now` (seconds since 1970), and always greater than the client's own.

    A client whose cursor is not behind `now` is sent ahead of it, by 1 to 3600 seconds as `jitter` in [0, 1) says.
    """
    current = int(now - CURSOR_EPOCH) // INTERVAL
    if client is None or client < current:
        return current
    return client + max(1, -(-int(1 + jitter * MAX_JITTER) // INTERVAL))
