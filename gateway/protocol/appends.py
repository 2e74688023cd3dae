"""`POST /v1/appends`: appends to many streams in one request, two lines for each.

The first line is a JSON object, which says what a POST to the stream would say by its URL and its headers; the second
line is the body of that POST, or empty. So events are kept as the bytes that came, and cutting them costs no parsing.
Pure: whether the client may append, and whether each stream accepts it, is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import lru_cache
from typing import Any, Final

import orjson

from gateway.protocol import json_body
from gateway.protocol.append import UNNUMBERED, AppendRequest, Producer
from gateway.protocol.batch import JSON_TYPE
from gateway.protocol.errors import BatchTooLarge, InvalidRequest, ProtocolError
from gateway.protocol.fields import check_count, check_lease, check_token
from gateway.protocol.target import REMEMBERED, SHORT, Part, Target

CONTENT_TYPE: Final = "application/x-ndjson"
TURN: Final = 500  # appends that are parsed at once
MOST_HEAD: Final = 16 << 10  # bytes of a first line
FIELDS: Final = frozenset(
    ("stream", "producerId", "producerEpoch", "producerSeq", "streamSeq", "streamClosed", "runLease")
)

_PIECE: Final = 1 << 20
_STREAMS: Final = "/v1/stream/"
_QUOTES: Final = 4  # in a first line with one member, a text


class Asked:
    """An append of a request with many. `refused`: why it cannot be one; else there are a `target`, and a `request`
    without its path.
    """

    __slots__ = ("refused", "request", "target")

    def __init__(self) -> None:
        self.target: Target | None = None
        self.request = AppendRequest("", None, [])
        self.refused: ProtocolError | None = None


def appends_in_pieces(body: bytes, most: int) -> Generator[None, None, list[Asked]]:
    """The appends of a body, at most `most`, and with at most as many events together. Gives way now and then.

    Raises InvalidRequest for a body that is not made of such lines, and BatchTooLarge.
    """
    yield from _counted(body, most)
    lines = body.split(b"\n")
    if not lines[-1]:
        del lines[-1]  # what stands after the last line's end
    if not lines or len(lines) % 2:
        raise InvalidRequest("Each append is two lines: an object that names its stream, and its events.")
    found: list[Asked] = []
    left, done = most, 0
    for at in range(0, len(lines), 2):
        head, line = lines[at], lines[at + 1]
        asked = Asked()
        found.append(asked)
        plain = _names(head) if head.count(b'"') == _QUOTES and len(head) <= SHORT else None
        told = None if plain is not None else _object(head, at)
        try:
            if told is None:
                asked.target = plain
            else:
                _read(told, asked)
            if line and line.strip(b" \t\r"):
                request = asked.request
                request.media_type = JSON_TYPE
                events = json_body.quickly(line, most=left)
                request.events = (yield from json_body.in_pieces(line, most=left)) if events is None else events
                if len(request.events) > left:
                    raise BatchTooLarge
            _check(asked)
        except BatchTooLarge:
            raise BatchTooLarge(f"At most {most} events.") from None
        except ProtocolError as error:
            asked.refused = error
        left -= len(asked.request.events)
        done += 1 + len(line) // 1_000
        if done >= TURN:
            done = 0
            yield
    return found


def _counted(body: bytes, most: int) -> Generator[None, None, None]:
    lines = 0
    for begin in range(0, len(body), _PIECE):
        lines += body.count(b"\n", begin, begin + _PIECE)
        if lines > 2 * most:
            raise BatchTooLarge(f"At most {most} appends.")
        yield


@lru_cache(maxsize=REMEMBERED)
def _names(head: bytes) -> Target | None:
    """The target of a first line with no room for more than that; None: it is none, and `_read` says why.

    Remembered, since a plain append says it again and again.
    """
    asked = Asked()
    try:
        _read(_object(head, 0), asked)
    except ProtocolError:
        return None
    return asked.target


def _object(head: bytes, at: int) -> dict[str, Any]:
    if len(head) <= MOST_HEAD:
        try:
            told = orjson.loads(head)
        except orjson.JSONDecodeError:
            told = None
        if type(told) is dict:
            return told
    raise InvalidRequest(
        f"Line {at + 1} is not a JSON object of at most {MOST_HEAD} bytes, as every other line from the first one is."
    )


def _read(told: dict[str, Any], asked: Asked) -> None:
    """Takes what a first line says. Raises InvalidRequest."""
    if not told.keys() <= FIELDS:
        raise InvalidRequest(f"{min(told.keys() - FIELDS)[:64]!r} is not known here.")
    name = told.get("stream")
    if type(name) is not str:
        raise InvalidRequest("stream must be there, and be a text.")
    asked.target = target = Target.of(_STREAMS + name)
    if target.stream is None:
        raise InvalidRequest("stream names no stream.")
    target.check()
    if target.part not in (None, Part.HEARTBEAT):
        raise InvalidRequest("What lies below a run takes a POST of its own, but for its heartbeat.")
    request = asked.request
    if len(told) == 1:
        return
    closed = told.get("streamClosed", False)
    if type(closed) is not bool:
        raise InvalidRequest("streamClosed must be true or false.")
    request.close = closed
    if (seq := told.get("streamSeq")) is not None:
        request.stream_seq = check_token("streamSeq", seq)
    if (lease := told.get("runLease")) is not None:
        request.lease = check_lease(target.about or "", lease)
    request.producer = _producer(told, beats=target.part is Part.HEARTBEAT)


def _producer(told: dict[str, Any], *, beats: bool) -> Producer | None:
    id, epoch, seq = told.get("producerId"), told.get("producerEpoch"), told.get("producerSeq")
    if id is None and epoch is None and seq is None:
        return None
    if beats:
        if seq is not None:
            raise InvalidRequest("A heartbeat has no producerSeq: it is not counted.")
        seq = UNNUMBERED
    elif seq is not None:
        check_count("producerSeq", seq)
    if id is None or epoch is None or seq is None:
        raise InvalidRequest("producerId, producerEpoch and, but for a heartbeat, producerSeq go together.")
    return Producer(check_token("producerId", id), check_count("producerEpoch", epoch), seq)


def _check(asked: Asked) -> None:
    request, target = asked.request, asked.target
    assert target is not None
    if target.part is Part.HEARTBEAT:
        if request.events or request.close or request.stream_seq is not None:
            raise InvalidRequest("A heartbeat has no events, does not close, and has no streamSeq.")
    elif not request.events and not request.close:
        raise InvalidRequest("An empty line appends nothing; with streamClosed it closes the stream.")
