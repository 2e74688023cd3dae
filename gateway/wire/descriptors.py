"""Limits on connections and readers, from how many descriptors this process may have open.

A process without free descriptors accepts nothing any more: no writer, no request for /health, no connection to the
database. So connections are limited to what leaves room for the process itself, and readers to what leaves room for
other connections.
"""

from __future__ import annotations

import logging
import sys

logger = logging.getLogger("gateway.wire.descriptors")

_OTHERS = 256  # descriptors that are no readers': writers, probes, the database, files
_OWN = 256  # that are no client's, besides the database pool's: LISTEN, webhooks, files, clients that ask for /health


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
    limit = _limit()
    if limit - _OTHERS >= readers:
        return readers
    room = max(limit - _OTHERS, limit // 2)
    logger.warning(
        "GATEWAY_MAX_READERS is lowered from %d to %d: this process may open only %d descriptors (ulimit -n).",
        readers,
        room,
        limit,
    )
    return room


def room_for_connections(connections: int, own: int, each: int = 1) -> int:
    """`connections`, or fewer if there are not enough descriptors for them.

    `own`: connections that the process itself has, to the database and for recordings. `each`: descriptors that a
    request may need; two, where it is passed on.
    """
    if sys.platform == "win32":
        return connections
    limit = _limit()
    room = max((limit - _OWN - own) // each, limit // 4)
    if room >= connections:
        return connections
    logger.info(
        "GATEWAY_MAX_CONNECTIONS is lowered from %d to %d: this process may open only %d descriptors (ulimit -n).",
        connections,
        room,
        limit,
    )
    return room


def _limit() -> int:
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
