"""Batches of appends: requests, entries of one stream each, the CALL that they become, and its verdicts.

Knows the arguments and results of run_gateway.append, and nothing of connections or time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gateway.log.page_arrays import LARGE, MANY, Pages, in_one
from gateway.protocol.append import AppendRequest
from gateway.protocol.batch import JSON_TYPE
from gateway.protocol.errors import (
    ContentTypeMismatch,
    NewEpochMustStartAtZero,
    ProducerLost,
    ProducerSequenceGap,
    ProtocolError,
    StaleEpoch,
    StreamClosed,
    StreamGone,
    StreamNotFound,
    StreamSeqConflict,
)

logger = logging.getLogger("gateway.log.appends")

CALL: Final = f"CALL run_gateway.append({', '.join(f'${n}' for n in range(1, 21))}, NULL, NULL, NULL, NULL, NULL, NULL)"
CALL_LARGE: Final = CALL.replace("$12", "run_gateway.cut($12, $21)").replace("$18", "run_gateway.cut($18, $22)")
# For plain requests to one stream, or one with a Stream-Seq: a lone writer waits for less, least by ALONE, where
# nobody is to be told. A tail of NULL: it is not accepted, and CALL says why.
CALL_ALONE: Final = "CALL run_gateway.append($1, $2, $3, $4, $5, $6, NULL, NULL)"
ALONE: Final = "SELECT tail, cancel_requested FROM run_gateway.append_alone($1, $2, $3, $4)"
EVENT_STREAM: Final = "text/event-stream"
_BODY_LIMIT: Final = 7_000  # bytes of events that a notification may carry; run_gateway.news has the last word
NEWS: Final = 7_800  # bytes of a notification that tells of several streams; Postgres takes 7,999
_EVENTS, _PAGES = 10, 16  # their places in the arrays
_AROUND: Final = 60  # of these, what stands around path and events of each: numbers, lengths and line ends


@dataclass(slots=True)  # not frozen: made for every append, and that costs three times as much
class Appended:
    """An accepted request, or one that was accepted before (`duplicate`). `tail`: the position after it.

    `cancel_requested`: the run that it went to has been asked to stop.
    """

    tail: int
    duplicate: bool
    closed: bool
    epoch: int | None = None
    seq: int | None = None
    cancel_requested: bool = False


class Row(Protocol):
    """A row of the database's answer, by the names of its columns."""

    def __getitem__(self, name: str, /) -> Any: ...


Settle = Callable[["Appended | ProtocolError"], None]


Asked = tuple[str, *tuple[Any, ...]]
"""A statement, and its arguments."""


class Waiting:
    """A request that waits for its outcome, and the callback that takes it."""

    __slots__ = ("_settle", "request", "size", "until")

    def __init__(self, request: AppendRequest, settle: Settle, until: float) -> None:
        self.request = request
        self.until = until  # when it has to be sent, by the loop's clock
        self._settle: Settle | None = settle
        events = request.events
        self.size = (len(events[0]) if len(events) == 1 else sum(map(len, events))) + 100 * (
            len(events) + 1
        )  # what it takes of memory

    def settle(self, outcome: Appended | ProtocolError) -> None:
        """Hands over the outcome, once: an HTTP request has one answer, whatever fails afterwards."""
        settle, self._settle = self._settle, None
        if settle is None:
            return
        try:
            settle(outcome)
        except Exception:
            logger.exception(
                "Handing over an append's outcome failed; its client gets no answer, and may retry."
            )  # the others of its batch are told theirs


class Entry:
    """A batch's part for one stream: a single request, or several plain ones of one type."""

    __slots__ = ("_body", "events", "waiting")

    def __init__(self, first: Waiting) -> None:
        self.waiting = [first]
        self.events = first.request.events
        self._body: bytes | None = None

    def takes(self, other: AppendRequest) -> bool:
        first = self.waiting[0].request
        return first.plain and other.plain and other.media_type == first.media_type

    def add(self, waiting: Waiting) -> None:
        """Adds a request that it takes."""
        if len(self.waiting) == 1:
            self.events = list(self.events)  # the first request's own until now
        self.waiting.append(waiting)
        self.events += waiting.request.events

    @property
    def body(self) -> bytes:
        """The events as they travel (gateway.protocol.batch). Read it once no more are added."""
        if self._body is None:
            self._body = self.events[0] if len(self.events) == 1 else self.separator.join(self.events)
        return self._body

    @property
    def lengths(self) -> list[int]:
        """The bytes of each event: with them a long body is told, since its frame is cut between events."""
        return list(map(len, self.events))

    @property
    def separator(self) -> bytes:
        return b"," if self.waiting[0].request.media_type == JSON_TYPE else b""


def arguments(entries: dict[str, Entry], *, told: bool, together: bool, pack: bool) -> list[object]:
    """The parallel arrays of run_gateway.append, after the Machine's name. `told`: other Machines are notified;
    `together`: of several streams at a time; `pack`: events that come in numbers are sent as pages.
    """
    firsts = [entry.waiting[0].request for entry in entries.values()]
    producers = [request.producer for request in firsts]
    with_producers = any(producers)
    seqs = [request.stream_seq for request in firsts]
    leases = [request.lease for request in firsts]
    event_entries: list[int] = []
    event_ordinals: list[int] = []
    events: list[bytes] = []
    pages = Pages()
    bodies: list[str | None] = []
    for number, entry in enumerate(entries.values(), 1):
        count = len(entry.events)
        if count == 1:
            event_entries.append(number)
            event_ordinals.append(1)
            events += entry.events
        elif pack and count >= MANY and not entry.waiting[0].request.close:  # the last event is read as it is closed
            pages.add(number, entry.body, entry.lengths, len(entry.separator))
        else:
            event_entries += [number] * count
            event_ordinals += range(1, count + 1)
            events += entry.events
        if told:
            bodies.append(_notified(entry))
    return [
        list(entries),
        [request.media_type for request in firsts],
        [len(entry.events) for entry in entries.values()],
        [request.close for request in firsts],
        seqs if any(seqs) else None,
        [producer and producer.id for producer in producers] if with_producers else None,
        [producer and producer.epoch for producer in producers] if with_producers else None,
        [producer and producer.seq for producer in producers] if with_producers else None,
        event_entries,
        event_ordinals,
        events,
        bodies or None,
        leases if any(leases) else None,
        *pages.arguments(),
        _shared_out(entries, bodies) if told and together else None,
    ]


def is_large(arrays: Sequence[Any]) -> bool:
    """True if the events in the arrays are as many bytes as CALL_LARGE is for."""
    return sum(map(len, arrays[_EVENTS])) + sum(map(len, arrays[_PAGES] or ())) > LARGE


def large_arguments(arrays: Sequence[Any]) -> list[Any]:
    """What CALL_LARGE is given for the arrays that CALL would be."""
    (events, events_sizes), (pages, pages_sizes) = in_one(arrays[_EVENTS]), in_one(arrays[_PAGES] or ())
    before, between, behind = arrays[:_EVENTS], arrays[_EVENTS + 1 : _PAGES], arrays[_PAGES + 1 :]
    return [*before, events, *between, pages, *behind, events_sizes, pages_sizes]


def _shared_out(entries: dict[str, Entry], bodies: list[str | None]) -> list[int]:
    """Assigns each stream's news to a notification. Takes events out of `bodies` that fit into none with their path."""
    numbers, number, room = [], 0, NEWS
    for place, (path, entry) in enumerate(entries.items()):
        size = len(path.encode()) + _AROUND
        if bodies[place]:
            if size + len(entry.body) > NEWS:
                bodies[place] = None
            else:
                size += len(entry.body)
        if size > room:
            number, room = number + 1, NEWS
        room -= size
        numbers.append(number)
    return numbers


def asked_alone(entries: dict[str, Entry], machine: str | None, *, pack: bool) -> Asked | None:
    """CALL_ALONE or ALONE, and its arguments; None where neither can take these entries."""
    if len(entries) > 1:
        return None
    ((path, entry),) = entries.items()
    request = entry.waiting[0].request
    if request.close or request.producer is not None or request.lease is not None:
        return None
    if not entry.events or (pack and len(entry.events) >= MANY) or len(entry.body) > LARGE:
        return None
    if machine is None:
        return ALONE, path, request.media_type, entry.events, request.stream_seq
    return CALL_ALONE, machine, path, request.media_type, entry.events, _notified(entry), request.stream_seq


def accepted_alone(row: Row) -> Row:
    """The row that CALL would have returned for what CALL_ALONE or ALONE has accepted."""
    return {
        "verdicts": ["appended"],
        "tails": [row["tail"]],
        "closed": [False],
        "known_epochs": [None],
        "known_seqs": [None],
        "cancels": [row["cancel_requested"]],
    }


def _notified(entry: Entry) -> str | None:
    """The events as a notification carries them; None if it cannot: only text without NUL, and small."""
    if not entry.events:
        return ""
    media, body = entry.waiting[0].request.media_type, entry.body
    if len(body) > _BODY_LIMIT:
        return None
    if media == JSON_TYPE:
        return body.decode()
    return _text(body) if media == EVENT_STREAM else None


def _text(body: bytes) -> str | None:
    """The frames of a recording (`gateway.relay`), if they can be told as text."""
    try:
        return None if b"\0" in body else body.decode()
    except UnicodeDecodeError:
        return None


def refusal(verdict: str, request: AppendRequest, tail: int, epoch: int | None, seq: int | None) -> ProtocolError:
    match verdict:
        case "not_found":
            return StreamNotFound()
        case "gone":
            return StreamGone()
        case "closed":
            return StreamClosed(tail)
        case "content_type":
            return ContentTypeMismatch(f"The request's is {request.media_type}.")
        case "stream_seq":
            return StreamSeqConflict()
        case "epoch_start":
            return NewEpochMustStartAtZero()
        case "stale_epoch":
            assert epoch is not None
            return StaleEpoch(epoch)
        case "lost":
            return ProducerLost(tail, epoch)
        case "sequence_gap":
            assert request.producer is not None
            return ProducerSequenceGap(0 if seq is None else seq + 1, request.producer.seq)
    raise AssertionError(f"run_gateway.append_batch gave an unknown verdict: {verdict}")
