"""The one tree of refusals. A class's docstring is the message that a client is shown, beside `status` and `type`.

Knows nothing of HTTP beyond numbers and header names; `gateway.http.responses` renders a refusal.
"""

from __future__ import annotations

from typing import ClassVar

from gateway.protocol.offset import format_offset

Headers = list[tuple[bytes, bytes]]


def _challenge(*parameters: bytes) -> Headers:
    """The header that says how to be let in, and why one was not (RFC 6750, §3)."""
    return [(b"www-authenticate", b" ".join([b"Bearer", b", ".join(parameters)]).rstrip())]


def _closed_at(tail: int) -> Headers:
    """The headers of a refusal because the stream has ended at this position."""
    return [(b"stream-closed", b"true"), (b"stream-next-offset", format_offset(tail))]


class ProtocolError(Exception):
    """The request cannot be answered."""

    # `details` says what in this very request was refused; `headers` are added to the answer.

    status: ClassVar[int] = 400
    type: ClassVar[str] = "invalid_request"

    def __init__(self, details: str | None = None, headers: Headers | None = None) -> None:
        super().__init__(details or self.__doc__)
        self.details = details
        self.headers: Headers = headers or []

    @property
    def message(self) -> str:
        return (self.__doc__ or "").strip()


class InvalidRequest(ProtocolError):
    """Request is malformed."""


class MalformedHttp(ProtocolError):
    """What was sent is not a request of HTTP/1.1."""

    type = "malformed_http"


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


class CredentialMissing(ProtocolError):
    """A credential is required."""

    status = 401
    type = "credential_missing"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge())  # §3.1: no error code where no credential was sent


class CredentialMalformed(ProtocolError):
    """The credential cannot be read."""

    status = 401
    type = "credential_malformed"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge(b'error="invalid_request"'))


class TokenInvalid(ProtocolError):
    """The credential is not one of this gateway's."""

    status = 401
    type = "token_invalid"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge(b'error="invalid_token"'))


class TokenExpired(ProtocolError):
    """The credential has expired: get another."""

    status = 401
    type = "token_expired"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge(b'error="invalid_token"', b'error_description="expired"'))


class ScopeMissing(ProtocolError):
    """The credential is not for this."""

    status = 403
    type = "scope_missing"

    def __init__(self, scope: str) -> None:
        headers = _challenge(b'error="insufficient_scope"', b'scope="%b"' % scope.encode())
        super().__init__(f"It needs the scope {scope}.", headers)


class WrongStream(ProtocolError):
    """The credential is for other streams."""

    status = 403
    type = "wrong_stream"

    def __init__(self, details: str | None = None) -> None:
        super().__init__(details, _challenge(b'error="insufficient_scope"'))


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


class SourceGone(ProtocolError):
    """The stream to fork from was deleted."""

    status = 409
    type = "source_gone"


class StreamGone(ProtocolError):
    """The stream was deleted."""

    status = 410
    type = "stream_gone"


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


class BadGateway(ProtocolError):
    """The application behind the gateway cannot be reached, or has not answered in HTTP."""

    status = 502
    type = "bad_gateway"


class UpgradeNotPassed(ProtocolError):
    """The gateway passes no WebSocket on to the application behind it."""

    status = 501
    type = "upgrade_not_passed"


class TooManyConnections(ProtocolError):
    """This Machine has as many connections as it takes."""

    status = 503
    type = "too_many_connections"


class TooManyPending(ProtocolError):
    """More appends are waiting for the database than the limit allows."""

    status = 429
    type = "too_many_pending"


class TooManyAppends(ProtocolError):
    """This credential has made as many appends as it may in a second."""

    status = 429
    type = "too_many_appends"


class TooManyCreates(ProtocolError):
    """This credential has made as many streams as it may in a second."""

    status = 429
    type = "too_many_creates"


class TooManyStreams(ProtocolError):
    """This credential has as many live reads open on this Machine as it may."""

    status = 429
    type = "too_many_streams"


class TooManyRequests(ProtocolError):
    """This client address has as many requests open on this Machine as it may."""

    status = 429
    type = "too_many_requests"


class TooManyRuns(ProtocolError):
    """The tenant has as many runs as it may: delete some."""

    status = 429
    type = "too_many_runs"


class Unavailable(ProtocolError):
    """The log cannot be reached; the outcome of a write is unknown: retry with the same producer headers."""

    status = 503
    type = "unavailable"


class StreamHeld(Unavailable):
    """Another transaction holds the stream; nothing was changed."""

    type = "stream_held"


class NotWritable(Unavailable):
    """The database takes no writes at the moment; nothing was changed."""

    type = "not_writable"


class IssuerUnavailable(ProtocolError):
    """The keys of the token's issuer cannot be fetched, so that nobody can tell whether it is valid."""

    status = 503
    type = "issuer_unavailable"


class TooManyReaders(ProtocolError):
    """This Machine has as many live readers as its limit allows: connect again."""

    status = 503
    type = "too_many_readers"


class TooManyReads(Unavailable):
    """More reads of the log are waiting for their turn than can be answered in time."""

    type = "too_many_reads"


class Draining(ProtocolError):
    """This Machine is shutting down: connect again."""

    status = 503
    type = "draining"
