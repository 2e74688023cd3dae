"""Recorded requests and answers of a stock Flue server, as values: what the gateway is compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WIRE: Final = Path(__file__).parent / "wire"


@dataclass(frozen=True)
class Answer:
    """A response: its headers in lower case, without those of the connection and the clock."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Transcript:
    name: str
    request: bytes
    answer: Answer


_OF_THE_CONNECTION: Final = ("date", "connection", "keep-alive", "transfer-encoding", "content-length")


def parse(response: bytes) -> Answer:
    """A whole response; chunks are put together."""
    head, _, body = response.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = _joined(body)
    for name in _OF_THE_CONNECTION:
        headers.pop(name, None)
    return Answer(int(lines[0].split()[1]), headers, body)


def _joined(body: bytes) -> bytes:
    joined = b""
    while body.strip():
        size, _, body = body.lstrip(b"\r\n").partition(b"\r\n")
        joined += body[: int(size, 16)]
        body = body[int(size, 16) :]
    return joined


def transcripts() -> Iterator[Transcript]:
    """All that were recorded."""
    for path in sorted(WIRE.glob("*.txt")):
        lines = path.read_text().split("\n")
        if not lines[0].startswith("> "):
            continue
        request = "\r\n".join(line[2:] for line in lines if line.startswith("> "))
        rest = [line for line in lines[lines.index("HTTP/1.1 " + _status(lines)) :] if not line.startswith("[+")]
        end = next(i for i, line in enumerate(rest) if (i and ": " not in line) or line.startswith(("event", "data")))
        body = "\n".join(rest[end:]).strip("\n")
        if "Transfer-Encoding: chunked" in rest:
            # In a transcript the sizes of the chunks stand on lines of their own, between the events.
            body = "".join(f"{event}\n\n" for event in re.findall(r"(?m)^event: \w+\ndata:[^\n]*", body))
        answer = parse("\r\n".join([*(line for line in rest[:end] if "chunked" not in line), "", body]).encode())
        yield Transcript(path.stem, request.encode(), answer)


def _status(lines: list[str]) -> str:
    return next(line[9:] for line in lines if line.startswith("HTTP/1.1 "))
