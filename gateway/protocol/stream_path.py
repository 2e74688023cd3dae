"""Paths of streams: which URLs name one, and which texts may be one."""

from __future__ import annotations

import re
from typing import Final

from gateway.protocol.errors import InvalidRequest
from gateway.protocol.fields import CONTROL
from gateway.protocol.run_path import LONGEST_PART, part_of

MAX_PATH: Final = 1024  # characters
MAX_PATH_BYTES: Final = 2048  # of UTF-8: an entry of Postgres's index has 2,704, with the tenant and `/control`
MAX_RUN_ID: Final = 256  # characters
DOTS: Final = r"(?:\.|%2[eE]){1,2}"  # a segment that is left out (RFC 3986 §5.2.4), also as the URL standard spells it
_DOTS: Final = re.compile(rf"(?:^|/){DOTS}(?:/|\Z)")
RESERVED: Final = "__ds"  # the first segment of the control APIs' paths (§6): no stream is there


def stream_path_of(url_path: str) -> str | None:
    """The stream that a URL's path names: `/v1/stream/<path>` or `/runs/<id>`. None: it names none."""
    if url_path.startswith("/v1/stream/"):
        return url_path[11:] or None
    if url_path.startswith("/runs/"):
        return url_path[1:] if len(url_path) > 6 else None
    return None


def is_reserved(path: str) -> bool:
    """Whether a path is one of the control APIs', and no stream's."""
    return path.partition("/")[0] == RESERVED


def check_path(path: str) -> str:
    """A stream's path, when it may be one. Raises InvalidRequest."""
    limit = MAX_RUN_ID + len("runs/") if path.startswith("runs/") else MAX_PATH
    if len(path) > limit and (len(path) > limit + LONGEST_PART or part_of(path) is None):
        raise InvalidRequest("The stream's path is too long.")
    if not path.isascii() and len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidRequest(f"The stream's path has more than {MAX_PATH_BYTES} bytes.")
    if CONTROL.search(path):
        raise InvalidRequest("The stream's path holds control characters or is not UTF-8.")
    if _DOTS.search(path):
        raise InvalidRequest("No segment of a stream's path may be . or .., which clients and proxies leave out.")
    return path
