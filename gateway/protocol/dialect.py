"""A dialect is how a log's positions and headers are written for its readers.

The gateway's own is the Durable Streams protocol as it stands. Another system's log, such as Flue's, may spell
positions and headers in its own way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from gateway.protocol import headers
from gateway.protocol.batch import Batch, Stream
from gateway.protocol.headers import Headers
from gateway.protocol.offset import format_offset


class _Offset(Protocol):
    def __call__(self, position: int, /) -> bytes: ...


class _ETag(Protocol):
    def __call__(self, stream: Stream, start: bytes, end: int, closed: bool) -> bytes: ...


class _OfBatch(Protocol):
    def __call__(self, stream: Stream, batch: Batch, start: bytes, *, cursor: int | None, now: bool) -> Headers: ...


class _OfNothingNew(Protocol):
    def __call__(self, position: int, closed: bool, cursor: int) -> Headers: ...


@dataclass(frozen=True, slots=True)
class Dialect:
    """The functions of `gateway.protocol.offset` and `gateway.protocol.headers` that a reader can tell apart."""

    offset: _Offset
    etag: _ETag
    of_batch: _OfBatch
    of_nothing_new: _OfNothingNew


GATEWAYS: Final = Dialect(format_offset, headers.etag, headers.of_batch, headers.of_nothing_new)
