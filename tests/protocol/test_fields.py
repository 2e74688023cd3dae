"""Accept: who is sent an event stream without asking for one by `live`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.fields import accept_encoding_of, accept_of, coding_for, only_events, prefers_events


@pytest.mark.parametrize(
    "accept",
    [
        b"text/event-stream",
        b"TEXT/Event-Stream",
        b" text/event-stream ;charset=utf-8",
        b"text/event-stream, */*",
        b"text/event-stream, text/*",
        b"application/json;q=0.9, text/event-stream",
        b"text/event-stream;q=0.8, application/json ; q=0.75, */*;q=0.1",
        b"text/event-stream;q=0.5;x=1, application/json;Q=0.4",
        b"text/html;q=0, text/event-stream;q=0.001",
        b"text/event-stream;q=7",  # which is no quality
        b",, text/event-stream ,",
    ],
)
def test_an_event_stream_is_sent_to_who_wants_it_most(accept: bytes) -> None:
    assert prefers_events(accept)


@pytest.mark.parametrize(
    "accept",
    [
        b"",
        b"*/*",
        b"text/*",
        b"application/json",
        b"application/json, text/event-stream",  # as clients of MCP send it: either will do
        b"text/event-stream, application/json",
        b"text/event-stream;q=0.5, application/json",
        b"text/event-stream;q=0",
        b"text/event-stream;q=0.0, */*",
        b"text/event-stream;q=0.5, */*",
        b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        b"application/x-text/event-stream",
        b"text/event-streams",
    ],
)
def test_who_wants_another_type_as_much_is_answered_as_ever(accept: bytes) -> None:
    assert not prefers_events(accept)


def test_only_what_an_event_source_sends_is_one() -> None:
    assert only_events(b"text/event-stream")
    assert only_events(b" Text/event-stream ")
    assert not only_events(b"text/event-stream, */*")
    assert not only_events(b"")


def test_a_list_may_stand_on_several_lines() -> None:
    headers = [(b"accept", b"text/event-stream"), (b"host", b"h"), (b"accept", b"application/json")]
    assert accept_of(headers) == b"text/event-stream,application/json"
    assert not prefers_events(accept_of(headers))
    assert accept_of([]) == b""


@given(st.binary(max_size=60) | st.text("text/event-stream;q=01.,* ", max_size=60).map(str.encode))
def test_any_value_prefers_events_or_not(accept: bytes) -> None:
    assert prefers_events(accept) in (True, False)
    assert not only_events(accept) or prefers_events(accept)


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        (b"", None),
        (b"gzip, deflate, br, zstd", b"zstd"),
        (b"gzip, deflate, br", b"gzip"),
        (b"GZIP;q=1.0, zstd;q=0.5", b"gzip"),
        (b"zstd;q=0, gzip;q=0.1", b"gzip"),
        (b"*", b"zstd"),
        (b"zstd;q=0, *", b"gzip"),
        (b"*;q=0", None),
        (b"identity", None),
        (b"identity, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip", b"gzip"),
        (b"identity;q=0", None),  # nothing that there is would do: so it is as it is
        (b"gzip;q=0, zstd;q=0.000", None),
        (b"br, deflate, ,;q=1", None),
    ],
)
def test_the_coding_is_the_one_that_is_wanted_most(accept_encoding: bytes, expected: bytes | None) -> None:
    assert coding_for(accept_encoding, (b"zstd", b"gzip")) == expected


def test_accept_encoding_may_stand_on_several_lines() -> None:
    headers = [(b"accept-encoding", b"br"), (b"accept", b"x/y"), (b"accept-encoding", b"gzip")]
    assert accept_encoding_of(headers) == b"br,gzip"


@given(st.binary(max_size=60))
def test_any_accept_encoding_is_read(accept_encoding: bytes) -> None:
    assert coding_for(accept_encoding, (b"gzip",)) in (b"gzip", None)
