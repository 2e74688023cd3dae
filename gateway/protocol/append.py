"""POST: an append, a close, or both (§5.2); and the heartbeat of a run, which is an append of nothing."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.protocol import json_body
from gateway.protocol.batch import JSON_TYPE, media_type
from gateway.protocol.content_type import check_content_type
from gateway.protocol.errors import InvalidRequest
from gateway.protocol.fields import GivenHeaders, is_true, lease_of, safe_integer, single_headers, token

UNNUMBERED: Final = -1  # the `seq` of a heartbeat, which is not one of the requests that its producer counts

APPEND_HEADERS: Final = frozenset(
    (b"content-type", b"stream-closed", b"stream-seq", b"producer-id", b"producer-epoch", b"producer-seq", b"run-lease")
)
_SELDOM: Final = APPEND_HEADERS - {b"content-type"}
HEARTBEAT_HEADERS: Final = frozenset((b"run-lease", b"producer-id", b"producer-epoch"))


@dataclass(slots=True)  # not frozen: see gateway.protocol
class Producer:
    """An idempotent producer's claim on one append (§5.2.1)."""

    id: str
    epoch: int
    seq: int


@dataclass(slots=True)  # not frozen: see gateway.protocol
class AppendRequest:
    """POST (§5.2). Without events it only closes the stream, or is a run's sign of life.

    `media_type` None: there is no body, so none to compare with the stream's. `lease`: seconds within which a run's
    producer promises its next sign of life.
    """

    path: str
    media_type: str | None
    events: list[bytes]
    close: bool = False
    stream_seq: str | None = None
    producer: Producer | None = None
    lease: int | None = None

    @property
    def plain(self) -> bool:
        """True if the log may merge the request with its neighbours: only the stream's own state can refuse it."""
        return not self.close and self.producer is None and self.stream_seq is None and self.lease is None


def append_at_once(path: str, headers: GivenHeaders, body: bytes, most: int | None = None) -> AppendRequest | None:
    """A POST of at most so many events as an AppendRequest; None: parsing it may take long, and is done in pieces.

    Raises InvalidRequest, BatchTooLarge, or InvalidJson for a body in JSON mode.
    """
    request = _parse_head(path, headers, body)
    if request.media_type == JSON_TYPE:
        events = json_body.quickly(body, most=most)
        if events is None:
            if len(body) > json_body.SHORT:
                return None
            events = json_body.at_once(json_body.in_pieces(body, most=most))
        request.events = events
    elif request.media_type is not None:
        request.events = [body]
    return request


def append_in_pieces(
    path: str, headers: GivenHeaders, body: bytes, most: int | None = None
) -> Generator[None, None, AppendRequest]:
    """Parses as `append_at_once` does, and yields after each piece of a long body."""
    request = _parse_head(path, headers, body)
    if request.media_type == JSON_TYPE:
        request.events = yield from json_body.in_pieces(body, most=most)
    elif request.media_type is not None:
        request.events = [body]
    return request


def _parse_head(path: str, headers: GivenHeaders, body: bytes) -> AppendRequest:
    """The request without its events."""
    found = single_headers(headers, APPEND_HEADERS)
    request = AppendRequest(path, None, [])
    if not _SELDOM.isdisjoint(found):
        request.close = is_true(found.get(b"stream-closed"))
        request.producer = _producer(found)
        request.stream_seq = token(b"stream-seq", found)
        request.lease = lease_of(path, found)
    if body:
        content_type = found.get(b"content-type", b"")
        if not content_type:
            raise InvalidRequest("Content-Type is required.")
        request.media_type = _media(content_type)
    elif not request.close:
        raise InvalidRequest("An empty body appends nothing; with Stream-Closed: true it closes the stream.")
    return request


def parse_heartbeat(run: str, headers: GivenHeaders, body: bytes) -> AppendRequest:
    """A POST to a run's `/heartbeat` as an AppendRequest without events: a sign of life. Raises InvalidRequest.

    A producer that sends its id and epoch (there is no sequence) is refused once another has taken over.
    """
    if body:
        raise InvalidRequest("A heartbeat has no body; what has one is appended to the run itself.")
    found = single_headers(headers, HEARTBEAT_HEADERS)
    producer_id, epoch = token(b"producer-id", found), found.get(b"producer-epoch")
    if (producer_id is None) != (epoch is None):
        raise InvalidRequest("Producer-Id and Producer-Epoch go together.")
    producer = None
    if producer_id is not None and epoch is not None:
        producer = Producer(producer_id, safe_integer(b"producer-epoch", epoch), UNNUMBERED)
    return AppendRequest(run, None, [], producer=producer, lease=lease_of(run, found))


@lru_cache(maxsize=64)  # there are a few, and each comes with every append
def _media(content_type: bytes) -> str:
    return media_type(check_content_type(content_type.decode("latin-1")))


def _producer(found: dict[bytes, bytes]) -> Producer | None:
    epoch, seq = found.get(b"producer-epoch"), found.get(b"producer-seq")
    present = (b"producer-id" in found) + (epoch is not None) + (seq is not None)
    if not present:
        return None
    if present < 3:
        raise InvalidRequest("Producer-Id, Producer-Epoch and Producer-Seq go together.")
    producer_id = token(b"producer-id", found)
    assert producer_id is not None and epoch is not None and seq is not None
    return Producer(producer_id, safe_integer(b"producer-epoch", epoch), safe_integer(b"producer-seq", seq))
