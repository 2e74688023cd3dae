"""Payloads of notifications: news of streams, as run_gateway.news and append write it, and signs of life. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.protocol.batch import News

KNOWS: Final = "="  # what a Machine's name begins with in what it says, if it knows both channels: see run_gateway.tell
_PING: Final = "\n\n0\n0\nping "
_LISTS: Final = "lists "  # in the sign of life of a Machine at which somebody follows a list of runs
_SEVERAL: Final = "several "  # in that of a Machine that reads notifications of several streams
_DIGITS: Final = 6  # of a length, and its line end
_TOGETHER: Final = "*\n"  # in the place of a path: news of several streams follows
_NEWS: Final = re.compile("([^\n]*)\n([0-9]{1,19})\n([0-9]{1,19})\n([^\n]*)(?:\n(.*))?", re.DOTALL)


class Sign(NamedTuple):
    """A sign of life. `lists`: a list of runs is followed there; `several`: it reads news of several at once."""

    machine: str
    lists: bool
    several: bool


def sign_of_life(machine: str, nonce: str, *, lists: bool) -> str:
    """The sign of life of a Machine of this version, by which it recognises its own."""
    return f"{KNOWS}{machine}{_PING}{_LISTS if lists else ''}{_SEVERAL}{nonce}"


def is_sign(payload: str, nonce: str) -> bool:
    """True for the sign of life with this nonce."""
    return payload.endswith(nonce) and _PING in payload


def parse_sign(payload: str) -> Sign | None:
    """The sign of life in a payload; None: it is something else. An event may look like one; its path is between it and
    the Machine's name.
    """
    end = payload.find("\n")
    if end < 0 or not payload.startswith(_PING, end):
        return None
    said = payload[end + len(_PING) :]
    return Sign(payload[:end], said.startswith(_LISTS), _SEVERAL in said)


def parse_all(payload: str, heard: float = 0.0) -> list[News]:
    """The news in a payload, of one stream or of several; none if it is something else. `heard`: as in News."""
    at = payload.find("\n") + 1
    if not payload.startswith(_TOGETHER, at):
        news = parse_news(payload, heard)
        return [] if news is None else [news]
    all_news: list[News] = []
    at += len(_TOGETHER)
    while at < len(payload):
        end = payload.find("\n", at, at + _DIGITS)
        length = payload[at:end]
        if end < 0 or not length.isdecimal():
            return []
        at = end + 1 + int(length)
        news = _parse(payload, end + 1, at, heard)
        if news is None:
            return []
        all_news.append(news)
    return all_news


def parse_news(payload: str, heard: float = 0.0) -> News | None:
    """The news of one stream in a payload; None if it is something else. `heard`: as in News."""
    return _parse(payload, payload.find("\n") + 1, len(payload), heard)


def _parse(payload: str, start: int, end: int, heard: float) -> News | None:
    # A Machine hears of every event of all Machines, so this is one call of C and not five.
    said = _NEWS.match(payload, start, end)
    if said is None:
        return None
    path, first, last, state, body = said.groups()
    return News(
        path,
        int(first),
        int(last),
        state == "closed",
        state == "deleted",
        None if body is None else body.encode(),
        heard,
    )
