"""What a path names: the target of a request, by the path of its URL, and the tenant and the run of a stream's path.

A target is found once, at the door, and carried by the request from there on. Pure. Its paths of streams are as clients
know them. A path as it is stored has its tenant in front: tenants are namespaces, of paths and of subscription ids.
Clients cannot send the separator (control characters are refused), so no client can name a path of another tenant.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from gateway.protocol.errors import InvalidRequest

CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufffd]")  # control characters, and what was no UTF-8
SEPARATOR: Final = "\x1f"  # between a tenant and a name: ASCII's own "unit separator"
MAX_PATH: Final = 1024  # characters
MAX_PATH_BYTES: Final = 2048  # of UTF-8: an entry of Postgres's index has 2,704, with the tenant and `/control`
MAX_RUN_ID: Final = 256  # characters
DOTS: Final = r"(?:\.|%2[eE]){1,2}"  # a segment that is left out (RFC 3986 §5.2.4), also as the URL standard spells it
_DOTS: Final = re.compile(rf"(?:^|/){DOTS}(?:/|\Z)")
_RESERVED: Final = "__ds"  # the first segment of the control APIs' paths (§6): no stream is there
_STREAMS: Final = "/v1/stream/"
_RUNS: Final = "runs/"
_RUN: Final = re.compile(rf"(?:[^{SEPARATOR}]*{SEPARATOR})?runs/[^/]+")

REMEMBERED: Final = 4_096  # targets, since a stream is asked for many times
SHORT: Final = 512  # characters of a URL's path whose target is remembered


class Part(Enum):
    """The parts of a run below its path: `runs/<id>/control` is the stream to its producer, and the others take
    requests, and are never streams.
    """

    CONTROL = "/control"
    CANCEL = "/cancel"
    HEARTBEAT = "/heartbeat"
    TOKEN = "/token"  # noqa: S105  it names no secret


_PARTS: Final = {part.value: part for part in Part}


@dataclass(frozen=True, slots=True)
class Target:
    """A URL's path, and what it names.

    `stream`: the path of a stream, at `/v1/stream/<path>` or `/runs/<id>`, or of a part below a run; None where the
    path names neither. `run`: the run, also of a part below it; None for any other stream. `part`: the part below the
    run; None: the run itself. `reserved`: the path is among the control APIs (§6). `fault`: the reason why no stream
    can have this path; None: one can.
    """

    path: str
    stream: str | None = None
    run: str | None = None
    part: Part | None = None
    reserved: bool = False
    fault: str | None = None

    @staticmethod
    def of(path: str) -> Target:
        """The target of a URL with this path, which is unquoted."""
        return _remembered(path) if len(path) <= SHORT else _find(path)

    @property
    def is_run(self) -> bool:
        """True for a run itself, and false for the parts below one."""
        return self.run is not None and self.part is None

    @property
    def about(self) -> str | None:
        """The stream that a credential for some streams only has to reach: below a run, that is the run."""
        return self.stream if self.run is None else self.run

    @property
    def appended_to(self) -> bool:
        """True if a POST appends events there: not for a heartbeat, a cancel or a request for a token."""
        return self.stream is not None and self.part in (None, Part.CONTROL)

    def stored(self, tenant: str) -> str:
        """The path of the stream in the log. Raises InvalidRequest where there can be none."""
        assert self.stream is not None
        self.check()
        return within(tenant, self.stream)

    def stored_run(self, tenant: str) -> str:
        """The path of the run in the log. Raises InvalidRequest where there can be none."""
        assert self.run is not None
        self.check()
        return within(tenant, self.run)

    def check(self) -> None:
        """Raises InvalidRequest where there can be no stream."""
        if self.fault is not None:
            raise InvalidRequest(self.fault)


def check_path(path: str) -> str:
    """A stream's path, when it may be one. Raises InvalidRequest."""
    fault = _fault(path)
    if fault is not None:
        raise InvalidRequest(fault)
    return path


def _find(path: str) -> Target:
    if path.startswith(_STREAMS):
        stream = path[len(_STREAMS) :]
    elif path.startswith("/" + _RUNS) and path != "/" + _RUNS:
        stream = path[1:]
    else:
        stream = ""
    if not stream:
        return Target(path)
    if stream.partition("/")[0] == _RESERVED:
        return Target(path, reserved=True)
    run, slash, name = stream.rpartition("/")
    part = _PARTS.get(slash + name)
    if part is not None and _is_run(run):
        return Target(path, stream, run, part, fault=_fault(run))
    return Target(path, stream, stream if _is_run(stream) else None, fault=_fault(stream))


_remembered: Final = lru_cache(maxsize=REMEMBERED)(_find)


def _is_run(stream: str) -> bool:
    run = stream.removeprefix(_RUNS)
    return "" != run != stream and "/" not in run


def _fault(stream: str) -> str | None:
    if len(stream) > (len(_RUNS) + MAX_RUN_ID if stream.startswith(_RUNS) else MAX_PATH):
        return "The stream's path is too long."
    if not stream.isascii() and len(stream.encode()) > MAX_PATH_BYTES:
        return f"The stream's path has more than {MAX_PATH_BYTES} bytes."
    if CONTROL.search(stream):
        return "The stream's path holds control characters or is not UTF-8."
    if _DOTS.search(stream):
        return "No segment of a stream's path may be . or .., which clients and proxies leave out."
    return None


# The paths of runs, with or without their tenant


def is_run(path: str) -> bool:
    """True if the stream at this path is a run: an id has no slash."""
    return _RUN.fullmatch(path) is not None


def control_of(run: str) -> str:
    """The path of a run's control stream."""
    return run + Part.CONTROL.value


# Paths and ids as they are stored


def within(tenant: str, name: str) -> str:
    """A client's path or id as it is stored; those of the default tenant, "", are stored as they are."""
    return f"{tenant}{SEPARATOR}{name}" if tenant else name


def without(name: str) -> str:
    """A stored path or id as its client knows it."""
    return name.rpartition(SEPARATOR)[2]


def shown(name: str) -> str:
    """A stored path or id as the operator's log shows it: `acme:runs/17`."""
    return name.replace(SEPARATOR, ":")


def tenant_of(name: str) -> str:
    """The tenant of a stored path or id; the default one is ""."""
    return name.rpartition(SEPARATOR)[0]
