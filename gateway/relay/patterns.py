"""Patterns of requests, such as `GET /api/chat/{key}/stream?from={from}`: what fits one, and one filled in.

Pure. A placeholder stands for a whole segment of the path or a whole value of the query; where a pattern's path begins
with one, it stands for any path, which the rest follows (`POST {key}/cancel`). Segments are compared as they are meant,
not as they are escaped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

MOST_FIELDS: Final = 256
"""Fields that a query may have, to be looked at: a row that asks for one is for no request with more."""

_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
_DOTS: Final = (".", "..")  # segments that a server may take away from such a path, however they are escaped
_WHOLE: Final = re.compile(r"\{([a-z_]+)\}(.*)")
_FORM: Final = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/[^\s?#]*|\{[a-z_]+\}(?:/[^\s?#{}]*)?)(?:\?([^\s#]*))?")


@dataclass(frozen=True, slots=True)
class Part:
    """A segment of a path, or a value: a literal text, or a placeholder of this name."""

    text: str
    placeholder: bool

    @staticmethod
    def of(text: str) -> Part:
        """Raises ValueError for braces that are no placeholder of the whole text."""
        found = _PLACEHOLDER.fullmatch(text)
        if found is not None:
            return Part(found[1], True)
        if "{" in text or "}" in text:
            raise ValueError(f"{text}: a placeholder such as {{key}} stands for a whole segment")
        return Part(text, False)

    def fits(self, text: str, found: dict[str, str]) -> bool:
        """Whether a text is this part. Notes in `found` what a placeholder stands for."""
        if not self.placeholder:
            return text == self.text
        if not text:
            return False
        return found.setdefault(self.text, text) == text


@dataclass(frozen=True, slots=True)
class Pattern:
    """A method, a path in segments, and what a query must hold. `whole`: a placeholder for a path before `rest`."""

    method: str
    segments: tuple[Part, ...]
    query: tuple[tuple[str, Part], ...]
    whole: str | None = None
    rest: str = ""

    @staticmethod
    def parse(text: str) -> Pattern:
        """Raises ValueError, whose words follow the text's place in a sentence."""
        form = _FORM.fullmatch(text)
        if form is None:
            raise ValueError(f"{text!r} must be a method and a path, such as GET /api/chat/{{key}}/stream")
        method, path, query = form[1], form[2], form[3] or ""
        fields = tuple((name, Part.of(value)) for name, value in parse_qsl(query, keep_blank_values=True))
        found = _WHOLE.fullmatch(path)
        if found is not None:
            return Pattern(method, (), fields, found[1], found[2])
        return Pattern(method, tuple(Part.of(unquote(segment)) for segment in path[1:].split("/")), fields)

    @property
    def names(self) -> frozenset[str]:
        """The names of its placeholders."""
        parts = (*self.segments, *(part for _, part in self.query))
        own = frozenset(part.text for part in parts if part.placeholder)
        return own if self.whole is None else own | {self.whole}

    def match(self, method: str, raw_path: str, query: Mapping[str, str]) -> dict[str, str] | None:
        """Matches a request: the values of the placeholders; None: it does not fit.

        `raw_path`: as it came, escaped. `query`: its fields, of several of one name the last.
        """
        if method != self.method:
            return None
        found: dict[str, str] = {}
        if self.whole is not None:
            if not raw_path.endswith(self.rest):
                return None
            found[self.whole] = raw_path.removesuffix(self.rest)
        else:
            segments = raw_path[1:].split("/")
            if len(segments) != len(self.segments):
                return None
            pairs = zip(self.segments, segments, strict=True)
            if not all(part.fits(unquote(segment), found) for part, segment in pairs):
                return None
        for name, part in self.query:
            if name not in query or not part.fits(query[name], found):
                return None
        return found

    def fill(self, values: Mapping[str, str]) -> str:
        """The path, and its query, with these values. Raises KeyError where one is missing, or cannot be a segment."""
        if self.whole is not None:
            path = values[self.whole] + self.rest
        else:
            for part in self.segments:
                if part.placeholder and values[part.text] in _DOTS:
                    raise KeyError(part.text)
            path = "/" + "/".join(_filled(part, values) for part in self.segments)
        query = "&".join(f"{quote(name, safe='')}={_filled(part, values)}" for name, part in self.query)
        return f"{path}?{query}" if query else path

    def __str__(self) -> str:
        path = self.fill({name: f"{{{name}}}" for name in self.names})
        return f"{self.method} {unquote(path)}"


def _filled(part: Part, values: Mapping[str, str]) -> str:
    return quote(values[part.text] if part.placeholder else part.text, safe="")


def query_of(query: bytes) -> dict[str, str]:
    """A query's fields, of several of one name the last; none of one that would be taken apart for long."""
    if not query or query.count(b"&") >= MOST_FIELDS:
        return {}
    return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
