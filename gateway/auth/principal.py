"""Principals: who makes a request, and what they may reach. Pure values, which the other files of this room make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

Scope = Literal["read", "write", "control", "admin"]

SCOPES: Final[frozenset[Scope]] = frozenset(get_args(Scope))
"""No scope includes another: a credential for reading and writing has both."""

TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RUNS: Final = "runs/"


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone who was let in. Paths are those that clients know, without the tenant.

    `id` names the credential, to count by and to log: never a secret. `runs`: patterns of the runs that it is for,
    None for all streams. `stream`: the one stream that it is for; `stream_id`: that one and no later one at its path.
    `expires`: Unix seconds.
    """

    id: str
    scopes: frozenset[Scope]
    tenant: str = ""
    runs: tuple[str, ...] | None = None
    stream: str | None = None
    stream_id: int | None = None
    expires: float | None = None

    @property
    def bound(self) -> bool:
        """True for a principal of certain streams only, which may ask for nothing that concerns other streams too."""
        return self.runs is not None or self.stream is not None

    @property
    def operates(self) -> bool:
        """Whether it may know how this Machine and its database are set up."""
        return "admin" in self.scopes and not self.bound

    def reaches(self, path: str) -> bool:
        """True if the stream at this path is one that the principal may reach."""
        if self.stream is not None:
            return path == self.stream
        if self.runs is None:
            return True
        return path.startswith(_RUNS) and any(matches(pattern, path[len(_RUNS) :]) for pattern in self.runs)


ANONYMOUS: Final = Principal("anonymous", SCOPES)
"""Everyone, where AUTH is none."""
PUBLIC: Final = Principal("public", frozenset[Scope](("read",)))
"""A reader without a credential of a run that everybody may read, where AUTH is on."""
NOBODY: Final = Principal("nobody", frozenset())
"""Where AUTH is on: the maker of a request that needs no credential of the gateway's."""


def matches(pattern: str, run: str) -> bool:
    """True if a run's id fits a pattern: `*` is any number of any characters, everything else is literal."""
    head, *rest = pattern.split("*")
    if not rest:
        return run == pattern
    if not run.startswith(head):
        return False
    run = run[len(head) :]
    *middle, end = rest
    for piece in middle:
        at = run.find(piece)
        if at < 0:
            return False
        run = run[at + len(piece) :]
    return run.endswith(end)


def scopes_of(names: Sequence[str]) -> frozenset[Scope]:
    """The scopes among some names. Other names are ignored: they may mean something to another service."""
    return SCOPES & frozenset(names)
