"""The paths of runs: `runs/<id>` is a run, and `runs/<id>/control` the stream to its producer. `runs/<id>/cancel`,
`/heartbeat` and `/token` take requests, and are never streams.

A path may have its tenant in front, as it does in the log.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from gateway.protocol.tenants import SEPARATOR

_RUN: Final = re.compile(rf"(?:[^{SEPARATOR}]*{SEPARATOR})?runs/[^/]+")


class Part(Enum):
    """The parts of a run below its path."""

    CONTROL = "/control"
    CANCEL = "/cancel"
    HEARTBEAT = "/heartbeat"
    TOKEN = "/token"  # noqa: S105  it names no secret


def is_run(path: str) -> bool:
    """True if the stream at this path is a run: an id has no slash."""
    return _RUN.fullmatch(path) is not None


def control_of(run: str) -> str:
    """The path of a run's control stream."""
    return run + Part.CONTROL.value
