"""The same request to a Flue server and to a gateway, and what differs between the two answers but for what is listed.

The list is DIFFERENCES: each entry says what is taken out of which answers, and why the gateway is meant to differ.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from tests.flue.transcripts import Answer, parse

BEYOND: Final = "offset=0_99999999999999999999999"
PATIENCE: Final = 60.0
_CONTROL: Final = re.compile(rb"event: control\ndata:[^\n]*\n\n")


@dataclass(frozen=True)
class Request:
    """What is sent, byte for byte."""

    method: str
    target: str
    headers: tuple[str, ...] = ()
    body: bytes = b""

    def __str__(self) -> str:
        return " ".join([self.method, self.target, *self.headers])

    @property
    def head(self) -> str:
        length = [f"Content-Length: {len(self.body)}"] if self.body else []
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: h", "Connection: close", *length, *self.headers]
        return "\r\n".join([*lines, "", ""])


async def ask(url: str, request: Request) -> Answer:
    """Its answer; that of a live event stream ends with the control event that says that all was sent."""
    parts = urlsplit(url)
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            writer.write(request.head.encode("latin-1") + request.body)
            got = bytearray()
            while piece := await reader.read(65536):
                got += piece
                if b"text/event-stream" in got and any(b"upToDate" in found for found in _CONTROL.findall(got)):
                    break
        finally:
            writer.close()
    if b"upToDate" in got and b"text/event-stream" in got and not got.endswith(b"0\r\n\r\n"):
        got += b"\r\n" * (not got.endswith(b"\r\n")) + b"0\r\n\r\n"
    return parse(bytes(got))


@dataclass(frozen=True)
class Difference:
    """Where it `applies` to a request and to Flue's answer, `made_even` makes the gateway's like it, or fails to."""

    why: str
    applies: Callable[[Request, Answer], bool]
    made_even: Callable[[Answer, Answer], Answer]


def _without(*names: str) -> Callable[[Answer, Answer], Answer]:
    """Those headers of ours that Flue has not set."""

    def made_even(ours: Answer, flues: Answer) -> Answer:
        gone = {name for name in names if name not in flues.headers}
        return replace(ours, headers={name: value for name, value in ours.headers.items() if name not in gone})

    return made_even


def _instead(name: str, ours_is: str) -> Callable[[Answer, Answer], Answer]:
    """A header of which ours has to be just that."""

    def made_even(ours: Answer, flues: Answer) -> Answer:
        assert re.fullmatch(ours_is, ours.headers[name]), f"{name}: {ours.headers[name]}"
        return replace(ours, headers=ours.headers | {name: flues.headers[name]})

    return made_even


def _events(pattern: bytes, flues_pattern: bytes = b"") -> Callable[[Answer, Answer], Answer]:
    def made_even(ours: Answer, flues: Answer) -> Answer:
        return replace(ours, body=re.sub(pattern, flues_pattern, ours.body))

    return made_even


def _answered(status: int, type: str = "") -> Callable[[Answer, Answer], Answer]:
    """Another answer altogether: with this status and, if it is a refusal, of this type."""

    def made_even(ours: Answer, flues: Answer) -> Answer:
        assert ours.status == status, f"{ours.status} is neither Flue's status nor {status}"
        assert not type or f'"type":"{type}"'.encode() in ours.body, f"it is not {type}"
        return flues

    return made_even


def _sse(_: Request, flues: Answer) -> bool:
    return flues.headers.get("content-type") == "text/event-stream"


def _always(_: Request, __: Answer) -> bool:
    return True


DIFFERENCES: Final = (
    Difference(
        "a page of another origin may read it, where the gateway is told so",
        _always,
        _without("access-control-allow-origin", "access-control-expose-headers", "access-control-max-age", "vary"),
    ),
    Difference("a proxy (nginx) would hold an event stream back", _sse, _without("x-accel-buffering")),
    Difference("nor may it transform one", _sse, _instead("cache-control", "no-cache, no-transform")),
    Difference("an EventSource resumes by itself, by these", _sse, _events(rb"(?m)^(retry: \d+|id: [^\n]*)\n")),
    Difference(
        "a run that is not there yet must not stay so in a cache (RFC 9110 §15.5.5)",
        lambda _, flues: flues.status >= 400,
        _without("cache-control"),
    ),
    Difference(
        "a record, too, is somebody's data and changes",
        lambda request, flues: flues.status == 200 and "meta" in request.target,
        _without("cache-control", "x-content-type-options", "cross-origin-resource-policy"),
    ),
    Difference(
        "a cursor moves with the clock",
        lambda _, flues: "stream-cursor" in flues.headers,
        _instead("stream-cursor", r"[0-9]+"),
    ),
    Difference(
        "RFC 9110 §13.1.2: * is whatever is there; Flue compares it as if it were a tag",
        lambda request, flues: (
            "If-None-Match: *" in request.headers and flues.status == 200 and not _sse(request, flues)
        ),
        _answered(304),
    ),
    Difference(
        "no run has so many events: Flue hands the number to Postgres, which refuses it",
        lambda request, flues: BEYOND in request.target and flues.status == 500,
        _answered(200),
    ),
    Difference(
        "runs of the gateway's own are made by PUT; that this id is Flue's is a conflict",
        lambda request, flues: request.method == "PUT" and flues.status == 405,
        _answered(409, "stream_exists"),
    ),
    Difference(
        "and an id that is nobody's may be taken",
        lambda request, flues: request.method == "PUT" and flues.status == 404,
        _answered(201),
    ),
    Difference(
        "a method that there is for no run is refused before the run is looked for",
        lambda request, flues: request.method == "PATCH" and flues.status == 404,
        _answered(405, "method_not_allowed"),
    ),
    Difference(
        "OPTIONS is a browser's question, which it asks before a GET with headers of its own",
        lambda request, flues: request.method == "OPTIONS",
        _answered(204),
    ),
)


def compare(request: Request, flues: Answer, ours: Answer) -> str | None:
    """What differs and is not listed, in words; None when nothing does."""
    try:
        for difference in DIFFERENCES:
            if difference.applies(request, flues):
                ours = difference.made_even(ours, flues)
    except (AssertionError, KeyError) as error:
        return f"{request}\n  {error!r}\n  Flue: {flues}\n  ours: {ours}"
    flues, ours = _clockless(flues), _clockless(ours)
    found = [f"  status {flues.status} -> {ours.status}"] if flues.status != ours.status else []
    for name in sorted(flues.headers.keys() | ours.headers.keys()):
        theirs, mine = flues.headers.get(name), ours.headers.get(name)
        if theirs != mine:
            found.append(f"  {name}: {theirs!r} -> {mine!r}")
    if flues.body != ours.body:
        found.append(f"  body {flues.body[:400]!r} -> {ours.body[:400]!r}")
    return "\n".join([str(request), *found]) if found else None


def _clockless(answer: Answer) -> Answer:
    return replace(answer, body=re.sub(rb'"streamCursor":"[0-9]+"', b'"streamCursor":"0"', answer.body))
