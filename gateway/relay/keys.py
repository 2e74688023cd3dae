"""Sources of a value in a request or its answer: of a run's key, or of a client's credential.

Pure. `body:id` is a field of the JSON body (`body:thread.id` one inside another), `header:x-run-id` a header of the
request, `query:runId` and `path:thread` parts of its URL, `cookie:session` a cookie; `response:location` a header of
the answer, and `frame:response.id` a field of its first frame with data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

from gateway.asgi import Headers

Place = Literal["body", "header", "query", "path", "cookie", "response", "frame"]

MAX_KEY: Final = 1024  # characters; what is longer is no key
_FORM: Final = re.compile(r"([a-z]+):(\S+)")
_PATHS: Final = ("location", "content-location")  # headers that hold a URL, of which the path counts


@dataclass(frozen=True, slots=True)
class Source:
    """A source: a place, and the name there."""

    place: Place
    name: str

    @staticmethod
    def parse(text: str) -> Source:
        """Raises ValueError, whose words follow the text's place in a sentence."""
        form = _FORM.fullmatch(text)
        if form is None or form[1] not in get_args(Place):
            raise ValueError(f"{text!r} must be a place and a name, such as body:id or header:x-run-id")
        place: Any = form[1]
        return Source(place, form[2].lower() if place in ("header", "response") else form[2])

    @property
    def in_request(self) -> bool:
        """Whether it is known before anything is sent upstream."""
        return self.place not in ("response", "frame")

    def __str__(self) -> str:
        return f"{self.place}:{self.name}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as far as rows look at it. `body`: its JSON, None where it is none. `path`: what the pattern found."""

    headers: Headers
    query: Mapping[str, str]
    path: Mapping[str, str]
    body: Any = None

    def find(self, source: Source) -> str | None:
        """The value at this source; None: there is none, or none that can be a key."""
        match source.place:
            case "body":
                return as_key(field(self.body, source.name))
            case "header":
                return as_key(header(self.headers, source.name))
            case "query":
                return as_key(self.query.get(source.name))
            case "path":
                return as_key(self.path.get(source.name))
            case "cookie":
                return as_key(cookie(self.headers, source.name))
        return None


def in_answer(source: Source, headers: Headers) -> str | None:
    """The value of a header of the answer; of a URL the path alone, since clients may add a query."""
    value = header(headers, source.name)
    if value is not None and source.name in _PATHS:
        value = urlsplit(value).path
    return as_key(value)


def as_key(value: object) -> str | None:
    """A text or a whole number as a key; None: it can be none."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if 0 < len(text) <= MAX_KEY and "\x00" not in text and text.isprintable() else None


def field(value: Any, name: str) -> Any:
    """A field of a JSON value, by names with dots between; None: there is none."""
    for each in name.split("."):
        value = value.get(each) if isinstance(value, dict) else None
    return value


def header(headers: Headers, name: str) -> str | None:
    """The first header of this name, which is in lower case."""
    wanted = name.encode("latin-1", "replace")
    return next((value.decode("latin-1") for each, value in headers if each.lower() == wanted), None)


def cookie(headers: Headers, name: str) -> str | None:
    """The first cookie of this name (RFC 6265 §5.4)."""
    for each, value in headers:
        if each.lower() == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                own, _, content = pair.strip().partition("=")
                if own == name:
                    return content
    return None
