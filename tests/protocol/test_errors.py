"""The tree of refusals: every leaf says in one sentence what is wrong, under a name of its own."""

from __future__ import annotations

import pytest

from gateway.protocol import errors
from gateway.protocol.errors import ProtocolError
from tests.refusals import refusals


@pytest.mark.parametrize("error", list(refusals()))
def test_a_refusal_has_a_sentence_and_a_status_of_the_protocol(error: type[ProtocolError]) -> None:
    assert error.__doc__ is not None
    assert error.__doc__.strip().endswith(".")
    assert "\n" not in error.__doc__.strip()
    assert error.status in {400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 421, 429, 431, 500, 501, 502, 503, 508}


def test_no_two_refusals_share_a_name() -> None:
    names = [error.type for error in refusals()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("error", "status", "details", "headers"),
    [
        (errors.StaleEpoch(3), 403, "The current epoch is 3.", [(b"producer-epoch", b"3")]),
        (
            errors.StreamClosed(42),
            409,
            "It ended at offset 0000000000000000_0000000000000042.",
            [(b"stream-closed", b"true"), (b"stream-next-offset", b"0000000000000000_0000000000000042")],
        ),
        (
            errors.ProducerSequenceGap(2, 5),
            409,
            "Expected 2, received 5.",
            [(b"producer-expected-seq", b"2"), (b"producer-received-seq", b"5")],
        ),
        (
            errors.ProducerLost(42),
            403,
            "Its lease ran out; it ended at offset 0000000000000000_0000000000000042, and takes nothing more.",
            [(b"stream-closed", b"true"), (b"stream-next-offset", b"0000000000000000_0000000000000042")],
        ),
        (
            errors.ProducerLost(0, epoch=3),
            403,
            "Its lease ran out; it ended at offset 0000000000000000_0000000000000000, and takes nothing more.",
            [
                (b"stream-closed", b"true"),
                (b"stream-next-offset", b"0000000000000000_0000000000000000"),
                (b"producer-epoch", b"3"),
            ],
        ),
        (
            errors.OffsetGone(42),
            410,
            "What was read up to 0000000000000000_0000000000000042 is still so; "
            "what was read after it is not in this stream.",
            [(b"stream-next-offset", b"0000000000000000_0000000000000042")],
        ),
        (
            errors.UnsupportedCoding(),
            415,
            "Content-Encoding must be absent, or identity.",
            [(b"accept-encoding", b"identity")],
        ),
        (
            errors.ContentTypeMismatch.between("a/b", "c/d"),
            409,
            "The request's is a/b, the stream's c/d.",
            [],
        ),
        (errors.StreamGone(), 410, None, []),
        (errors.InvalidRequest("Why."), 400, "Why.", []),
    ],
)
def test_a_refusal_carries_what_a_client_needs_to_go_on(
    error: ProtocolError, status: int, details: str | None, headers: errors.Headers
) -> None:
    assert (error.status, error.details, error.headers) == (status, details, headers)
    assert error.message == (type(error).__doc__ or "").strip()


def test_a_reader_is_not_told_of_an_unknown_outcome() -> None:
    assert "outcome is unknown" in errors.Unavailable().message
    assert errors.Unavailable().to_reader == "The log cannot be reached: try again."
    for refusal in (errors.StreamHeld(), errors.StreamGone()):
        assert refusal.to_reader == refusal.message
