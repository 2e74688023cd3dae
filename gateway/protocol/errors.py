"""The one tree of refusals: a class's docstring is the message that a client is shown, beside `status` and `type`.

Here are its root and the refusals of streams and runs. Those that one room alone knows of stand there: `auth.errors`,
`quotas.errors`, `flue.errors`, `http.upstream`. Knows nothing of HTTP beyond numbers and names of headers;
`gateway.http.responses` renders a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.protocol.offset import format_offset

Headers = list[tuple[bytes, bytes]]


def _closed_at(tail: int) -> Headers:
    """The headers of a refusal because the stream has ended at this position."""
    return [(b"stream-closed", b"true"), (b"stream-next-offset", format_offset(tail))]


class ProtocolError(Exception):
    """The request cannot be answered."""

    # `details` says what in this very request was refused; `headers` are added to the answer, `more` to its error.

    status: int = 400
    type: str = "invalid_request"
    more: Mapping[str, str | int] = {}

    def __init__(self, details: str | None = None, headers: Headers | None = None) -> None:
        super().__init__(details or self.__doc__)
        self.details = details
        self.headers: Headers = headers or []

    @property
    def message(self) -> str:
        return (self.__doc__ or "").strip()

    @property
    def to_reader(self) -> str:
        """The message for a request that could not have changed anything."""
        return self.message


class InvalidRequest(ProtocolError):
    """Request is malformed."""


class MalformedHttp(ProtocolError):
    """What was sent is not a request of HTTP/1.1."""

    type = "malformed_http"


class CodingNotSupported(ProtocolError):
    """The request's body is encoded in a way that is not supported."""

    status = 501
    type = "coding_not_supported"


class RequestTimeout(ProtocolError):
    """The request has taken too long to arrive."""

    status = 408
    type = "request_timeout"


class HeadTooLarge(ProtocolError):
    """The request's line and headers are too large."""

    status = 431
    type = "head_too_large"


class InvalidJson(ProtocolError):
    """The body is not valid JSON."""

    type = "invalid_json"


class NewEpochMustStartAtZero(ProtocolError):
    """A new producer epoch must start at sequence 0."""

    type = "invalid_epoch_start"


class ForkOffsetBeyondTail(ProtocolError):
    """The fork offset lies beyond the source stream's tail."""

    type = "invalid_fork_offset"


class ForkSubOffsetBeyondData(ProtocolError):
    """The fork sub-offset names a position past the next data boundary."""

    type = "invalid_fork_sub_offset"


class StaleEpoch(ProtocolError):
    """A producer with a newer epoch has taken over."""

    status = 403
    type = "stale_epoch"

    def __init__(self, epoch: int) -> None:
        super().__init__(f"The current epoch is {epoch}.", [(b"producer-epoch", b"%d" % epoch)])


class ProducerLost(ProtocolError):
    """The run was ended because its producer had given no sign of life."""

    status = 403
    type = "producer_lost"

    def __init__(self, tail: int, epoch: int | None = None) -> None:
        headers = _closed_at(tail)
        if epoch is not None:
            headers.append((b"producer-epoch", b"%d" % epoch))
        offset = format_offset(tail).decode()
        super().__init__(f"Its lease ran out; it ended at offset {offset}, and takes nothing more.", headers)


class StreamNotFound(ProtocolError):
    """There is no such stream."""

    status = 404
    type = "stream_not_found"


class RunNotFound(ProtocolError):
    """There is no such run."""

    status = 404
    type = "run_not_found"


class SourceNotFound(ProtocolError):
    """The stream to fork from does not exist."""

    status = 404
    type = "source_not_found"


class RouteNotFound(ProtocolError):
    """There is nothing at this address."""

    status = 404
    type = "route_not_found"


class MethodNotAllowed(ProtocolError):
    """The method is not allowed here."""

    status = 405
    type = "method_not_allowed"


class StreamClosed(ProtocolError):
    """The stream is closed."""

    status = 409
    type = "stream_closed"

    def __init__(self, tail: int) -> None:
        super().__init__(f"It ended at offset {format_offset(tail).decode()}.", _closed_at(tail))


class ContentTypeMismatch(ProtocolError):
    """The content type is not the stream's."""

    status = 409
    type = "content_type_mismatch"

    @classmethod
    def between(cls, request: str, stream: str) -> ContentTypeMismatch:
        """A refusal that names both types."""
        return cls(f"The request's is {request}, the stream's {stream}.")


class UnsupportedCoding(ProtocolError):
    """The body is compressed, which is not understood here: send it as it is."""

    status = 415
    type = "unsupported_coding"

    def __init__(self) -> None:
        # RFC 9110 §12.5.3: what a body may be coded with is said by Accept-Encoding in the answer.
        super().__init__("Content-Encoding must be absent, or identity.", [(b"accept-encoding", b"identity")])


class StreamSeqConflict(ProtocolError):
    """Stream-Seq is not greater than the last one."""

    status = 409
    type = "stream_seq_conflict"


class ProducerSequenceGap(ProtocolError):
    """A producer sequence number was skipped."""

    status = 409
    type = "producer_sequence_gap"

    def __init__(self, expected: int, received: int) -> None:
        super().__init__(
            f"Expected {expected}, received {received}.",
            [(b"producer-expected-seq", b"%d" % expected), (b"producer-received-seq", b"%d" % received)],
        )


class StreamExists(ProtocolError):
    """The stream already exists with a different configuration."""

    status = 409
    type = "stream_exists"


class RunExists(ProtocolError):
    """The run already exists, and was asked for differently."""

    status = 409
    type = "run_exists"


class RunEnded(ProtocolError):
    """The run has ended."""

    status = 409
    type = "run_ended"


class PathBlocked(ProtocolError):
    """The stream was deleted, but forks still need its data: the path cannot be used again yet."""

    status = 409
    type = "path_blocked"


class TooManyForks(ProtocolError):
    """A stream has as many forks as GATEWAY_MAX_FORKS allows."""

    status = 409
    type = "too_many_forks"


class ForkTooDeep(ProtocolError):
    """A fork of this source would make a longer chain of forks than GATEWAY_MAX_FORK_DEPTH allows."""

    status = 409
    type = "fork_too_deep"


class SourceGone(ProtocolError):
    """The stream to fork from was deleted."""

    status = 409
    type = "source_gone"


class StreamGone(ProtocolError):
    """The stream was deleted."""

    status = 410
    type = "stream_gone"


class OffsetGone(ProtocolError):
    """The log does not have this offset, or has it no more: its database has lost what came before it."""

    status = 410
    type = "offset_gone"

    def __init__(self, common: int) -> None:
        offset = format_offset(common)
        super().__init__(
            f"What was read up to {offset.decode()} is still so; what was read after it is not in this stream.",
            [(b"stream-next-offset", offset)],
        )


class BodyTooLarge(ProtocolError):
    """The request body is larger than the limit."""

    status = 413
    type = "body_too_large"


class BatchTooLarge(ProtocolError):
    """The request holds more events than the limit allows; nothing was appended."""

    status = 413
    type = "batch_too_large"


class EventTooLarge(ProtocolError):
    """An event is larger than the limit; nothing was appended."""

    status = 413
    type = "event_too_large"


class InternalFault(ProtocolError):
    """Something went wrong inside the gateway."""

    status = 500
    type = "internal_error"


class TooManyConnections(ProtocolError):
    """This Machine has as many connections as it takes."""

    status = 503
    type = "too_many_connections"


class TooManyPending(ProtocolError):
    """More appends are arriving, or waiting for the database, than the limit allows."""

    status = 429
    type = "too_many_pending"


class Unavailable(ProtocolError):
    """The log cannot be reached: try again, a write with the same producer headers, since its outcome is unknown."""

    status = 503
    type = "unavailable"

    @property
    def to_reader(self) -> str:
        return self.message if type(self) is not Unavailable else "The log cannot be reached: try again."


class StreamHeld(Unavailable):
    """Another transaction holds the stream; nothing was changed."""

    type = "stream_held"


class NotSent(Unavailable):
    """The append could not be sent to the database in time; nothing was changed: try again."""

    type = "not_sent"


class NotWritable(Unavailable):
    """The database takes no writes at the moment; nothing was changed."""

    type = "not_writable"


class TooManyReaders(ProtocolError):
    """This Machine has as many live readers as its limit allows: connect again."""

    status = 503
    type = "too_many_readers"


class TooManyFollowed(ProtocolError):
    """The responses of this Machine that follow many streams follow as many as its limit allows: connect again."""

    status = 503
    type = "too_many_followed"


class TooManyReads(Unavailable):
    """More reads of the log are waiting for their turn than can be answered in time."""

    type = "too_many_reads"


class TooManyLists(Unavailable):
    """As many lists as may wait are waiting for their turn."""

    type = "too_many_lists"


class ListTooSlow(Unavailable):
    """The database did not find this page in the time that a list has: ask for fewer runs, or by other filters."""

    type = "list_too_slow"


class Draining(ProtocolError):
    """This Machine is shutting down: connect again."""

    status = 503
    type = "draining"
