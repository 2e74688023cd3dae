"""The way to speak to the upstream again about an answer that it is making: to ask for the rest of it, or to stop it.

Pure. All of it is known when the answer has begun. The database keeps it for other Machines, but of the client's
headers those alone that the row names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import quote

import orjson

from gateway.asgi import Headers
from gateway.relay import answers
from gateway.relay.patterns import Pattern
from gateway.relay.rows import Rejoin, Row

_TARGET: Final = re.compile(r"/[!-~]*")
_ALWAYS: Final = "host"


@dataclass(frozen=True, slots=True)
class Contact:
    """`rest`: the target that gives the rest of the answer; `cancel`: method and target of what stops it; None: there
    is none. `headers`: what is sent with them.
    """

    rest: str | None
    cancel: tuple[str, str] | None
    headers: Headers

    @classmethod
    def of(cls, row: Row, headers: Headers, values: Mapping[str, str]) -> Self:
        """`headers`: those of the POST. `values`: what the placeholders stand for, as far as that is known."""
        rest = None if row.rejoin is None else _filled(row.rejoin.ask, values)
        cancel = None if row.cancel is None else _filled(row.cancel, values)
        stop = None if row.cancel is None or cancel is None else (row.cancel.method, cancel)
        return cls(rest, stop, answers.questioned(headers))

    @classmethod
    def read(cls, text: str) -> Self:
        """Reads what `kept` has written."""
        kept: dict[str, Any] = orjson.loads(text)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept["headers"]]
        stop = kept["cancel"]
        return cls(kept["rest"], None if stop is None else (stop[0], stop[1]), [*headers, *answers.questioned([])])

    def kept(self, rejoin: Rejoin) -> str:
        """The contact as the database keeps it."""
        named = {*rejoin.send, _ALWAYS}
        headers = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in self.headers
            if name.decode("latin-1") in named
        ]
        return orjson.dumps({"rest": self.rest, "cancel": self.cancel, "headers": headers}).decode()

    def asking(self, row: Row, last: str | None) -> tuple[bytes, Headers]:
        """Target and headers of the request for what comes after this frame; None: for all of it."""
        assert self.rest is not None and row.rejoin is not None, "or it would not be asked for"
        place, name = row.rejoin.by.place, row.rejoin.by.name
        ours = (b"accept", name.encode("latin-1") if place == "header" else b"")
        headers = [*(each for each in self.headers if each[0] not in ours), (b"accept", row.media_type.encode())]
        said = row.rejoin.start if last is None else last
        if said is None:
            return self.rest.encode(), headers
        if place == "header":
            return self.rest.encode(), [*headers, (name.encode("latin-1"), said.encode("latin-1", "replace"))]
        more = f"{'&' if '?' in self.rest else '?'}{quote(name, safe='')}={quote(said, safe='')}"
        return (self.rest + more).encode(), headers


def _filled(pattern: Pattern, values: Mapping[str, str]) -> str | None:
    """The target; None: something that stands in it is not known, or is none that can be asked for."""
    try:
        target = pattern.fill(values)
    except KeyError:
        return None
    return target if _TARGET.fullmatch(target) else None
