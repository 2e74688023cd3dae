"""How many sockets this process may have open, and how many of those are for readers.

A process without free descriptors accepts nothing any more: no writer, no request for /health, no connection to the
database. Only readers are limited here, so that there is always room for the others.
"""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("gateway.descriptors")

_OTHERS = 256  # descriptors that are no readers': writers, probes, the database, files


def raise_limit() -> None:
    """Raises the limit of open files to what the system allows: shells often set 1,024, where thousands are allowed."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def room_for(readers: int) -> int:
    """`readers`, or fewer if there are not enough descriptors for them."""
    if sys.platform == "win32":
        return readers
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit - _OTHERS >= readers:
        return readers
    room = max(limit - _OTHERS, limit // 2)
    logger.warning("Of %d live readers only %d may come: %d descriptors are all there are.", readers, room, limit)
    return room
