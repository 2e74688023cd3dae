"""The values that travel between the log and its readers: pages of a stream, and news that it has grown."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from itertools import accumulate
from typing import Final

from gateway.protocol import json_body
from gateway.protocol.errors import InvalidJson
from gateway.protocol.offset import events_between, same_epoch
from gateway.protocol.text import EDGE, edge, is_utf8

JSON_TYPE = "application/json"
LINE: Final = 32_000
"""Bytes of events after which a line of an event stream ends: Go's bufio.Scanner and asyncio's readline take 64 KiB."""


class Encoding(Enum):
    """The form in which a stream's bytes travel in an SSE data event (§5.8)."""

    JSON = "json"
    TEXT = "text"
    BASE64 = "base64"

    @staticmethod
    @lru_cache(maxsize=256)  # a few types are most of all streams'
    def of(content_type: str) -> Encoding:
        media = media_type(content_type)
        if media == JSON_TYPE:
            return Encoding.JSON
        return Encoding.TEXT if media.startswith("text/") and is_utf8(content_type) else Encoding.BASE64


def media_type(content_type: str) -> str:
    """The part of a content type that is compared: lower case, without parameters."""
    return content_type.partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as one snapshot of the log shows it. `tail` is the position after its last event."""

    id: int
    path: str
    content_type: str
    tail: int
    closed: bool
    ttl: int | None = None
    expires_at: str | None = None

    @property
    def encoding(self) -> Encoding:
        return Encoding.of(self.content_type)


@dataclass(slots=True)  # not frozen: see gateway.protocol
class Batch:
    """The events after position `start` up to position `end`.

    `body` holds them as they travel: JSON messages joined by commas, without brackets, or plain bytes.
    `up_to_date`: `end` was the tail when the batch was read. `closed`: it was, and nothing will ever follow.
    `lengths`: the bytes of each event, if they are known; without them no reader can begin in the middle.
    `before`: of a text stream that is followed, the last bytes before `start` (see gateway.protocol.text).
    """

    start: int
    end: int
    body: bytes
    up_to_date: bool
    closed: bool
    lengths: Sequence[int] | None = field(default=None, compare=False)
    cuts: Sequence[tuple[int, int]] | None = field(default=None, compare=False, repr=False)  # kept by `cuts`
    before: bytes = field(default=b"", compare=False)
    ends: Sequence[int] | None = field(default=None, compare=False, repr=False)  # of a folded one, after each event
    folded: tuple[object, Batch] | None = field(
        default=None, compare=False, repr=False
    )  # kept by gateway.protocol.fold

    @property
    def empty(self) -> bool:
        return self.start == self.end


@dataclass(frozen=True, slots=True)
class Page:
    """A stream and a batch of its events, from one snapshot: "closed" is never newer than the events."""

    stream: Stream
    batch: Batch


@dataclass(slots=True)  # not frozen: see gateway.protocol
class News:
    """Events `first` to `last` of a stream were committed; none when first > last. A hint (law 2).

    `body` holds them as a Batch's body does, or is None when they have to be read from the log. `heard`: when this
    process learnt of it, in monotonic seconds; 0 when that was not measured. `lengths`: as in a Batch.
    """

    path: str
    first: int
    last: int
    closed: bool = False
    deleted: bool = False
    body: bytes | None = None
    heard: float = field(default=0.0, compare=False)
    lengths: Sequence[int] | None = field(default=None, compare=False)


def after(encoding: Encoding, batch: Batch, position: int) -> Batch | None:
    """The part of a batch after a position; None when the position is outside, or its place in the bytes is unknown."""
    if position == batch.start:
        return batch
    if not batch.start < position <= batch.end:
        return None
    if position == batch.end:
        return Batch(position, position, b"", batch.up_to_date, batch.closed)
    if batch.lengths is None or not same_epoch(position, batch.end):  # a page is of one epoch, so this is not its own
        return None
    count = events_between(batch.start, position)
    skipped = sum(batch.lengths[:count]) + (count if encoding is Encoding.JSON else 0)  # and their commas
    before = edge(batch.before, batch.body[max(0, skipped - EDGE) : skipped]) if encoding is Encoding.TEXT else b""
    lengths = batch.lengths[count:]
    return Batch(position, batch.end, batch.body[skipped:], batch.up_to_date, batch.closed, lengths, before=before)


def cuts(encoding: Encoding, batch: Batch, most: int) -> Sequence[tuple[int, int]]:
    """The places at which a batch is cut into parts of at most `most` bytes each; a larger event is a part of its own.

    Returns, for each part, the position after it and where it ends in the body, without the comma behind it. A batch
    whose events' lengths are unknown stays whole. All readers of a batch share the result.
    """
    if batch.cuts is None:
        batch.cuts = _cut(1 if encoding is Encoding.JSON else 0, batch, most)
    return batch.cuts


def _cut(gap: int, batch: Batch, most: int) -> list[tuple[int, int]]:
    whole = [(batch.end, len(batch.body))]
    if len(batch.body) <= most or batch.lengths is None or len(batch.lengths) != events_between(batch.start, batch.end):
        return whole
    ends = list(accumulate(batch.lengths))

    def end_of(event: int) -> int:
        return ends[event] + event * gap

    found, count, at = list[tuple[int, int]](), 0, 0
    while count < len(ends):
        fitting = bisect_right(range(len(ends)), at + most, lo=count, key=end_of)
        count = max(fitting, count + 1)
        end = end_of(count - 1)
        found.append((batch.end - (len(ends) - count), end))  # by its end: it may begin where an earlier epoch ends
        at = end + gap
    return found


def singles(batch: Batch) -> Iterator[tuple[int, bytes]]:
    """The events of a batch of a JSON stream, each with the position after it."""
    lengths = measured(Encoding.JSON, batch) if batch.lengths is None else batch.lengths
    assert lengths is not None, "what the log holds are events"
    ends = range(batch.end - len(lengths) + 1, batch.end + 1) if batch.ends is None else batch.ends
    at = 0
    for end, length in zip(ends, lengths, strict=True):
        yield end, batch.body[at : at + length]
        at += length + 1


def join(encoding: Encoding, batches: list[Batch]) -> Batch:
    """Adjacent batches as one, as up to date and as closed as the last of them."""
    if len(batches) == 1:
        return batches[0]
    first, last = batches[0], batches[-1]
    separator = b"," if encoding is Encoding.JSON else b""
    body = separator.join([batch.body for batch in batches if not batch.empty])
    lengths = _lengths(encoding, batches) if len(body) > LINE else None
    return Batch(first.start, last.end, body, last.up_to_date, last.closed, lengths, before=first.before)


def _lengths(encoding: Encoding, batches: list[Batch]) -> Sequence[int] | None:
    """The lengths of all events of the batches; None if one of the batches does not tell."""
    found: list[int] = []
    for batch in batches:
        if batch.lengths is None:
            batch.lengths = measured(encoding, batch)  # kept: the next reader asks for the same
            if batch.lengths is None:
                return None
        found += batch.lengths
    return found


def measured(encoding: Encoding, batch: Batch) -> Sequence[int] | None:
    """The lengths of a batch's events, found by parsing its bytes; None if the bytes do not tell."""
    count = events_between(batch.start, batch.end)
    if count <= 1:
        return [len(batch.body)] * count
    if encoding is not Encoding.JSON:
        return None
    try:
        lengths = [len(event) for event in json_body.messages(b"[%b]" % batch.body)]
    except InvalidJson:
        return None
    return lengths if len(lengths) == count and sum(lengths) + count - 1 == len(batch.body) else None
