"""Payloads of notifications: news of streams, as run_gateway.news and append write it, and signs of life. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from gateway.protocol.batch import News

KNOWS: Final = "="  # what a Machine's name begins with in what it says, if it knows both channels: see run_gateway.tell
_PING: Final = "\n\n0\n0\nping "
_LISTS: Final = "lists "  # in the sign of life of a Machine at which somebody follows a list of runs
_SEVERAL: Final = "several "  # in that of a Machine that reads notifications of several streams
_DIGITS: Final = 6  # of a length, and its line end
_TOGETHER: Final = "*"  # in the place of a path: news of several streams follows


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
    machine, ping, said = payload.partition(_PING)
    if not ping or "\n" in machine:
        return None
    return Sign(machine, said.startswith(_LISTS), _SEVERAL in said)


def parse_all(payload: str) -> list[News]:
    """The news in a payload, of one stream or of several; none if it is something else."""
    machine, _, said = payload.partition("\n")
    if not said.startswith(f"{_TOGETHER}\n"):
        news = parse_news(payload)
        return [] if news is None else [news]
    all_news: list[News] = []
    at = len(_TOGETHER) + 1
    while at < len(said):
        length, end, _ = said[at : at + _DIGITS].partition("\n")
        if not end or not length.isdecimal():
            return []
        at += len(length) + 1
        news = parse_news(f"{machine}\n{said[at : at + int(length)]}")
        if news is None:
            return []
        all_news.append(news)
        at += int(length)
    return all_news


def parse_news(payload: str) -> News | None:
    """The news of one stream in a payload; None if it is something else."""
    fields = payload.split("\n", 5)
    try:
        _, path, first, last, state, *body = fields
        return News(
            path,
            int(first),
            int(last),
            closed=state == "closed",
            deleted=state == "deleted",
            body=body[0].encode() if body else None,
        )
    except ValueError:
        return None
