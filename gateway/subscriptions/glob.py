"""Patterns over stream paths (§6.2): `*` is one segment, `**` any number of them, everything else is literal.

A pattern has two forms of the same meaning: a test in Python, and a regular expression for Postgres. Empty segments, as
in `a//b`, are ignored in patterns and in paths.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from gateway.protocol.target import tenant_of, without

MOST_HEAD: Final = 8  # segments, as run_gateway.heads_of has it
_STAR: Final = re.compile("%2[Aa]")  # how a literal asterisk is written
_SPECIAL: Final = re.compile(r"([^0-9A-Za-z\x80-\U0010ffff])")


class Glob:
    """A parsed pattern.

    `tenant`: only paths of this tenant match.
    `head`: the literal segments with which every matching path begins, at most MOST_HEAD of them, with a slash between.
    `regex`: the same test as `matches`, for Postgres, on `'/' || path`, where the path is without its tenant.
    """

    def __init__(self, pattern: str, tenant: str = "") -> None:
        self.pattern = pattern
        self.tenant = tenant
        segments: list[str] = []
        for segment in split(pattern):
            if segment != "**" or segments[-1:] != ["**"]:  # `**/**` means the same as `**`
                segments.append(segment)
        self._segments = tuple(segments)
        literal = takewhile(lambda segment: segment not in ("*", "**"), segments[:MOST_HEAD])
        self.head = "/".join(map(_literal, literal))

    @property
    def regex(self) -> str:
        return "^" + "".join(map(_regex, self._segments)) + "/*$"

    def matches(self, path: str) -> bool:
        """True if a stored path matches."""
        return tenant_of(path) == self.tenant and self.search(split(without(path)), sys.maxsize)[0]

    def search(self, parts: Sequence[str], most: int) -> tuple[bool, int]:
        """Whether a path of this tenant matches, by its segments, and how many steps it took to find out: at most
        (segments of the pattern) x (segments of the path). After `most` steps it counts as matching.
        """
        at, part, steps = 0, 0, 0
        resume: tuple[int, int] | None = None  # the last `**`: its segment, and the first part that it does not take
        while part < len(parts):
            steps += 1
            if steps > most:
                return True, steps
            segment = self._segments[at] if at < len(self._segments) else None
            if segment == "**":
                resume = (at, part)
                at += 1
            elif segment is not None and (segment == "*" or _literal(segment) == parts[part]):
                at, part = at + 1, part + 1
            elif resume is not None:
                resume = (resume[0], resume[1] + 1)
                at, part = resume[0] + 1, resume[1]
            else:
                return False, steps
        return self._segments[at:] in ((), ("**",)), steps + 1


def split(path: str) -> list[str]:
    """The segments of a path, or of a pattern."""
    return [segment for segment in path.split("/") if segment]


def _literal(segment: str) -> str:
    return _STAR.sub("*", segment)


def _regex(segment: str) -> str:
    match segment:
        case "**":
            return "(?:/+[^/]+)*"
        case "*":
            return "/+[^/]+"
    return "/+" + _SPECIAL.sub(r"\\\1", _literal(segment))
