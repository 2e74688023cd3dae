"""Cursors: numbers that move with time, so that a cache never serves one answer for ever (§10.1)."""

from __future__ import annotations

import re
from typing import Final

INTERVAL: Final = 20  # seconds
EPOCH: Final = 1728432000  # 2024-10-09T00:00:00Z, seconds since 1970
MAX_JITTER: Final = 3600  # seconds
_CURSOR: Final = re.compile(rb"[0-9]{1,15}")


def parse_cursor(token: bytes) -> int | None:
    """A client's cursor, or None when it is none of ours."""
    return int(token) if _CURSOR.fullmatch(token) else None


def cursor_at(now: float, client: int | None, count: int) -> int:
    """The next cursor of an answer that ends behind `count` events, and that a cache gives to others.

    It is greater than the client's own, as the other is, but not by chance: whoever has read as far waits at the same
    address, whenever they came and whichever Machine answered, so that a cache asks once for all of them.
    """
    found = int(now - EPOCH) // INTERVAL + count
    return found if client is None or client < found else client + 1


def cursor(now: float, client: int | None, jitter: float) -> int:
    """The next cursor: that of the time `now` (seconds since 1970), and always greater than the client's own.

    A client whose cursor is not behind `now` is sent ahead of it, by 1 to 3600 seconds as `jitter` in [0, 1) says.
    """
    current = int(now - EPOCH) // INTERVAL
    if client is None or client < current:
        return current
    return client + max(1, -(-int(1 + jitter * MAX_JITTER) // INTERVAL))
