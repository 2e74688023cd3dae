"""Following many streams in one response: the request, and its frames.

A frame is one unnamed event, whose data is an array: for each stream that has something to tell, an object that says
whose it is. So the offset of all of them, which is the frame's `id:`, is written once for all that came together.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

from gateway.protocol import json_body
from gateway.protocol.batch import LINE, Batch, Encoding, cuts
from gateway.protocol.composite import UNBEGUN, digest, parse
from gateway.protocol.errors import BatchTooLarge, InvalidJson, InvalidRequest, ProtocolError
from gateway.protocol.fields import RawHeaders, single_headers
from gateway.protocol.fold import Fold, parse_fold
from gateway.protocol.frames import RETRY, SHARED, gathered
from gateway.protocol.offset import NOW, START, format_offset, parse_offset
from gateway.protocol.read import last_event_id
from gateway.protocol.target import Part
from gateway.protocol.text import EDGE, characters, edge

MOST: Final = 1_000
"""Streams that one response follows."""

MAX_BODY: Final = 1 << 20  # bytes
MAX_STREAM: Final = 16 << 10  # bytes of what a body says of one stream

PARTS: Final = (None, Part.CONTROL)  # of a run, that are streams

FILTERS: Final = frozenset(("status", "workflowName"))  # and those that begin with `metadata.`
_BODY: Final = frozenset(("streams", "offset"))
_STREAM: Final = frozenset(("stream", "offset", "token"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """A stream that is asked for, from `position` on, which may be NOW. `token`: of its own."""

    path: str
    position: int
    token: str | None = None


@dataclass(frozen=True, slots=True)
class ManyRequest:
    """The streams that are asked for. `positions`: where a reader that comes back stands in each; None: it is new.

    `fold`: how events that there are already are read as fewer, of JSON streams. `resumed`: it is an EventSource that
    comes back.
    """

    streams: tuple[Wanted, ...]
    digest: bytes
    positions: list[int] | None
    resumed: bool
    fold: Fold | None = None

    def start(self, place: int) -> int:
        """The position from which a stream is read, NOW and OVER among them."""
        at = UNBEGUN if self.positions is None else self.positions[place]
        return self.streams[place].position if at == UNBEGUN else at


def names_a_list(query: bytes) -> bool:
    """True if a request names runs by the filters of a list, and not streams."""
    return any(name in FILTERS or name.startswith("metadata.") for name, _ in _pairs(query))


def asked_in_pieces(body: bytes) -> Generator[None, None, dict[str, Any]]:
    """The body of a POST: `streams`, and what else it holds. Gives way now and then. Raises InvalidRequest."""
    try:
        members = yield from json_body.members_in_pieces(body, len(_BODY))
        if not members.keys() <= _BODY or not members.get("streams", b"").startswith(b"["):
            raise InvalidRequest("The body must be an object of streams, an array, and offset if need be.")
        each = yield from json_body.in_pieces(members.pop("streams"), may_be_empty=True, most=MOST)
        if any(len(text) > MAX_STREAM for text in (*each, *members.values())):
            raise InvalidRequest(f"What is said of one stream may have {MAX_STREAM} bytes.")
        others = {name: orjson.loads(text) for name, text in members.items()}
        return {"streams": [orjson.loads(text) for text in each], **others}
    except BatchTooLarge:
        raise InvalidRequest(f"The body names more than {MOST} streams, or has more than it may.") from None
    except InvalidJson as error:
        raise InvalidRequest(f"The body must be a JSON object. {error.details}") from None
    except orjson.JSONDecodeError:  # half of a surrogate pair
        raise InvalidRequest("The body holds what is no text.") from None


def parse_many(headers: RawHeaders, query: bytes, asked: Mapping[str, Any] | None) -> ManyRequest:
    """A request: `stream=` in the query for each stream, or `streams` in the body of a POST, as `asked_in_pieces` has
    read it; None: of a GET.

    Raises InvalidRequest.
    """
    pairs = _pairs(query)
    if ("live", "sse") not in pairs:
        raise InvalidRequest("Many streams are followed with live=sse.")
    names = [value for name, value in pairs if name == "stream"]
    offsets = [value for name, value in pairs if name == "offset"]
    wanted: list[Wanted]
    if asked is None:
        wanted = [Wanted(name, _start(None)) for name in names]
    elif names:
        raise InvalidRequest("The streams are named in the body, or in the query of a GET.")
    else:
        offsets += [asked["offset"]] if "offset" in asked else []
        wanted = [_stream(each) for each in asked["streams"]]
    if len(offsets) > 1 or any(not isinstance(offset, str) for offset in offsets):
        raise InvalidRequest("offset must be a text, and there once.")
    resumed = last_event_id(single_headers(headers, frozenset((b"last-event-id",))), pairs)
    _check([each.path for each in wanted])
    given = offsets[0].encode("latin-1", "replace") if offsets else b"-1"
    of = digest(each.path for each in wanted)
    return ManyRequest(
        tuple(_begun(wanted, NOW if given == b"now" else START)),
        of,
        _positions(resumed or given, of, len(wanted)),
        resumed is not None,
        _fold(pairs),
    )


def _begun(wanted: list[Wanted], everywhere: int) -> Iterator[Wanted]:
    """The streams, of which those that say nothing of it are begun as all of them."""
    for each in wanted:
        yield replace(each, position=everywhere) if each.position == UNBEGUN else each


def _fold(pairs: list[tuple[str, str]]) -> Fold | None:
    given = [value for name, value in pairs if name == "fold"]
    if len(given) > 1:
        raise InvalidRequest("fold is there more than once.")
    return parse_fold(given[0]) if given else None


def _positions(offset: bytes, of: bytes, count: int) -> list[int] | None:
    if offset in (b"-1", b"now"):
        return None
    positions = parse(offset, of, count)
    if positions is None:
        raise InvalidRequest("The offset is none that was given out for these streams, in this order.")
    return positions


def _start(offset: object) -> int:
    """The position at which a stream is begun; UNBEGUN: where the request says for all of them."""
    if offset is None:
        return UNBEGUN
    position = parse_offset(offset.encode("latin-1", "replace")) if isinstance(offset, str) else None
    if position is None:
        raise InvalidRequest("A stream's offset must be -1, now, or one that was given out for it.")
    return position


def _stream(asked: object) -> Wanted:
    if isinstance(asked, str):
        return Wanted(asked, UNBEGUN)
    if not isinstance(asked, dict) or not isinstance(asked.get("stream"), str) or not asked.keys() <= _STREAM:
        raise InvalidRequest("Each of streams must be a path, or an object of stream, and offset and token if need be.")
    token = asked.get("token")
    if token is not None and not isinstance(token, str):
        raise InvalidRequest("A stream's token must be a text.")
    return Wanted(asked["stream"], _start(asked.get("offset")), token)


def _pairs(query: bytes) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=256)
    except ValueError:
        raise InvalidRequest("The query string cannot be read.") from None
    return pairs


def _check(paths: Sequence[str]) -> None:
    if not 1 <= len(paths) <= MOST:
        raise InvalidRequest(f"Name 1 to {MOST} streams.")
    if len(set(paths)) < len(paths):
        raise InvalidRequest("A stream is named more than once.")


# Frames


Line = bytes | tuple[bytes, ...]
"""One line's data; in several pieces, if one of them is large."""


def parts(path: str, encoding: Encoding, batch: Batch, behind: int) -> list[Line]:
    """The lines of one stream: its events, and where it stands then. `behind`: events that follow in the log, as
    far as is known. Several, where its line would be longer than LINE.
    """
    name = orjson.dumps(path)
    if batch.closed:
        state = b',"streamClosed":true'
    elif batch.up_to_date:
        state = b',"upToDate":true'
    else:
        state = b',"behind":%d' % behind if behind else b""
    if batch.empty:
        return [_part(name, batch.end, state, (b"", b"", b""))]
    if len(batch.body) <= LINE:
        return [_part(name, batch.end, state, _events(encoding, batch.before, batch.body))]
    found, at, gap = list[Line](), 0, 1 if encoding is Encoding.JSON else 0
    for position, end in cuts(encoding, batch, LINE):
        before = edge(batch.before, batch.body[max(0, at - EDGE) : at])
        events = _events(encoding, before, batch.body[at:end])
        found.append(_part(name, position, state if position == batch.end else b"", events))
        at = end + gap
    return found


def _part(name: bytes, end: int, state: bytes, events: tuple[bytes, bytes, bytes]) -> Line:
    before, payload, after = events
    head = b'{"stream":%b,"streamNextOffset":"%b"%b%b' % (name, format_offset(end), state, before)
    return (head, payload, after + b"}") if len(payload) >= SHARED else b"%b%b%b}" % (head, payload, after)


def _events(encoding: Encoding, before: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
    if encoding is Encoding.JSON:
        return b',"events":[', body, b"]"  # messages are stored without line breaks
    if encoding is Encoding.TEXT:
        return b',"text":', orjson.dumps(characters(before, body).decode(errors="replace")), b""
    return b',"base64":"', b64encode(body), b'"'


def refused(path: str, error: ProtocolError) -> bytes:
    """The last word of a stream that cannot be followed, or no longer."""
    said = {"status": error.status, "type": error.type, "message": error.to_reader, "details": error.details}
    return orjson.dumps({"stream": path, "error": said})


def frame(offset: bytes, parts: Iterable[Line], *, first: bool = False) -> list[bytes]:
    """Parts as one event. Each has a line of its own, so that no line is longer than that of a single stream's. Returns
    the frame as `gathered` pieces.
    """
    pieces = [b"%bid: %b\ndata:[" % (RETRY if first else b"", offset)]
    for part in parts:
        pieces += (part,) if isinstance(part, bytes) else part
        pieces.append(b",\ndata:")
    pieces[-1] = b"]\n\n"
    return gathered(pieces)
