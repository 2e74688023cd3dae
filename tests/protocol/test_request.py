"""Requests: what is asked becomes values, and what cannot be meant is refused before anything has happened."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.flue import dialect
from gateway.protocol import json_body
from gateway.protocol.append import (
    UNNUMBERED,
    AppendRequest,
    Producer,
    append_at_once,
    append_in_pieces,
    parse_heartbeat,
)
from gateway.protocol.batch import media_type
from gateway.protocol.content_type import content_type_header
from gateway.protocol.create import Fork, parse_create
from gateway.protocol.errors import InvalidJson, InvalidRequest, SourceNotFound
from gateway.protocol.offset import MAX_POSITION, NOW
from gateway.protocol.read import PATIENCE, RESUMING, Live, ReadRequest, parse_read
from gateway.runs import bodies
from tests.protocol.parsing import parse_append

Headers = dict[str, str]
JSON = {"content-type": "application/json"}
AT_42 = "0000000000000000_0000000000000042"


def raw(headers: Headers | None) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]


def read_here(headers: Headers, query: bytes) -> ReadRequest:
    return parse_read("runs/s", raw(headers), query, with_tail=True)


def read_as_in_flue(headers: Headers, query: bytes) -> ReadRequest:
    return dialect.parse_read("runs/s", raw(headers), dialect.parse_query(query))


# POST


def test_a_body_is_appended_as_its_type_says() -> None:
    assert parse_append("s", raw(JSON), b"[1, 2]") == AppendRequest("s", "application/json", [b"1", b"2"])
    assert parse_append("s", raw({"content-type": "Application/JSON; charset=utf-8"}), b"[1]").events == [b"1"]
    assert parse_append("s", raw({"content-type": "text/plain"}), b"[1, 2]").events == [b"[1, 2]"]
    assert parse_append("s", raw({"content-type": "Text/Plain; x=y"}), b"a").media_type == "text/plain"
    assert parse_append("s", raw({"content-type": "application/jsonl"}), b"a\nb").events == [b"a\nb"]


@pytest.mark.parametrize("value", ["true", "TRUE", "True"])
def test_an_empty_body_closes_whatever_its_content_type(value: str) -> None:
    closing = AppendRequest("s", None, [], close=True)
    assert parse_append("s", raw({"stream-closed": value}), b"") == closing
    assert parse_append("s", raw({"stream-closed": value, "content-type": "nonsense"}), b"") == closing


@pytest.mark.parametrize("value", ["false", "yes", "1", "", "true ", "truely"])
def test_any_other_value_of_stream_closed_counts_for_nothing(value: str) -> None:
    assert not parse_append("s", raw(JSON | {"stream-closed": value}), b"1").close


def test_a_producer_and_a_sequence_are_taken_as_they_are() -> None:
    headers = JSON | {
        "producer-id": "p é",
        "producer-epoch": "007",
        "producer-seq": "9007199254740991",
        "stream-seq": "ÿ",
    }
    request = parse_append("s", raw(headers), b"1")
    assert request.producer == Producer("p é", 7, 2**53 - 1)
    assert request.stream_seq == "ÿ"
    assert not request.plain


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"x"),
        ({"content-type": ""}, b"x"),
        (JSON, b""),
        (JSON | {"stream-closed": "yes"}, b""),
        (JSON | {"producer-id": "p"}, b"1"),
        (JSON | {"producer-id": "p", "producer-epoch": "0"}, b"1"),
        (JSON | {"producer-epoch": "0", "producer-seq": "0"}, b"1"),
        (JSON | {"producer-id": "", "producer-epoch": "0", "producer-seq": "0"}, b"1"),
        (JSON | {"producer-id": "a\tb", "producer-epoch": "0", "producer-seq": "0"}, b"1"),
        (JSON | {"producer-id": "a\x85b", "producer-epoch": "0", "producer-seq": "0"}, b"1"),
        (JSON | {"producer-id": "p" * 1025, "producer-epoch": "0", "producer-seq": "0"}, b"1"),
        (JSON | {"stream-seq": ""}, b"1"),
        (JSON | {"stream-seq": "a\x00b"}, b"1"),
        (JSON | {"stream-seq": "s" * 1025}, b"1"),
        ({"stream-closed": "true", "producer-id": "p"}, b""),
    ],
)
def test_an_append_that_cannot_be_meant_is_refused(headers: Headers, body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_append("s", raw(headers), body)


@pytest.mark.parametrize("name", ["producer-epoch", "producer-seq"])
@pytest.mark.parametrize(
    "number", ["", "-1", "+1", "1.0", "1e3", " 1", "0x1", "1_0", "1\n", "9007199254740992", "9" * 400, "²", "½"]
)
def test_a_producers_numbers_are_digits_up_to_javascripts_limit(name: str, number: str) -> None:
    headers = JSON | {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0", name: number}
    with pytest.raises(InvalidRequest) as caught:
        parse_append("s", raw(headers), b"1")
    assert caught.value.details is not None
    assert caught.value.details.startswith(name)


@pytest.mark.parametrize(
    "name", ["content-type", "stream-closed", "stream-seq", "producer-id", "producer-epoch", "producer-seq"]
)
def test_a_header_that_comes_twice_is_refused_in_an_append(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} is there more than once"):
        parse_append("s", [*raw(JSON | {name: "0"}), (name.encode(), b"0")], b"1")


def test_other_headers_may_come_twice() -> None:
    parse_append("s", [*raw(JSON), (b"accept", b"a"), (b"accept", b"b")], b"1")


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"1 2"])
def test_what_is_no_json_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        parse_append("s", raw(JSON), body)


def test_only_what_is_judged_by_the_stream_alone_may_be_merged() -> None:
    assert parse_append("s", raw(JSON), b"1").plain
    assert not parse_append("s", raw(JSON | {"stream-closed": "true"}), b"1").plain
    assert not parse_append("s", raw(JSON | {"stream-seq": "1"}), b"1").plain


def test_a_long_body_is_read_in_pieces_to_the_same_request() -> None:
    events = [b"1"] * json_body.PIECE
    body = b"[%b]" % b",".join(events)
    pieces = append_in_pieces("s", raw(JSON), body)
    assert next(pieces) is None
    assert json_body.at_once(pieces).events == events
    assert parse_append("s", raw({"content-type": "text/plain"}), body).events == [body]


def test_headers_known_to_be_single_are_taken_as_they_are() -> None:
    assert parse_append("s", dict(raw(JSON)), b"1") == parse_append("s", raw(JSON), b"1")


@pytest.mark.parametrize("value", ["", "a\x00", "a\x85", "p" * 1025])
def test_a_producer_id_is_printable_and_not_long(value: str) -> None:
    with pytest.raises(InvalidRequest, match="producer-id must be 1 to 1024 printable characters"):
        parse_append("s", raw(JSON | {"producer-id": value, "producer-epoch": "0", "producer-seq": "0"}), b"1")


def test_a_lease_is_a_number_of_seconds_and_of_runs_only() -> None:
    assert parse_append("runs/7", raw(JSON | {"run-lease": "30"}), b"1").lease == 30
    for value in ("0", "3601", "1.5", "-1", "030", ""):
        with pytest.raises(InvalidRequest, match="Run-Lease must be a whole number"):
            parse_append("runs/7", raw(JSON | {"run-lease": value}), b"1")
    with pytest.raises(InvalidRequest, match="Run-Lease is for runs"):
        parse_append("streams/7", raw(JSON | {"run-lease": "30"}), b"1")


def test_a_heartbeat_is_an_append_of_nothing() -> None:
    assert parse_heartbeat("runs/7", [], b"") == AppendRequest("runs/7", None, [])
    producer = {"producer-id": "p", "producer-epoch": "2", "run-lease": "30"}
    assert parse_heartbeat("runs/7", raw(producer), b"") == AppendRequest(
        "runs/7", None, [], producer=Producer("p", 2, UNNUMBERED), lease=30
    )


@pytest.mark.parametrize(
    ("headers", "body", "why"),
    [
        ({}, b"1", "A heartbeat has no body"),
        ({"producer-id": "p"}, b"", "go together"),
        ({"producer-epoch": "1"}, b"", "go together"),
    ],
)
def test_a_heartbeat_that_cannot_be_meant_is_refused(headers: Headers, body: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        parse_heartbeat("runs/7", raw(headers), body)


# PUT


def test_a_stream_is_created_with_what_was_asked() -> None:
    plain = parse_create("s", [], b"")
    assert (plain.content_type, plain.ttl, plain.expires_at, plain.closed, plain.fork) == (
        "application/octet-stream", None, None, False, None,
    )  # fmt: skip
    request = parse_create("s", raw({"content-type": "Text/X; a=B", "stream-closed": "true", "stream-ttl": "60"}), b"a")
    assert (request.content_type, request.ttl, request.closed, request.body) == ("Text/X; a=B", 60, True, b"a")


@pytest.mark.parametrize(
    ("given", "body", "expected"),
    [
        ("application/json", b"[1, 2]", [b"1", b"2"]),
        ("application/json", b"[]", []),
        ("application/json", b"[ ]", []),
        ("application/json; charset=utf-8", b"[[]]", [b"[]"]),
        ("application/json", b"", []),
        ("application/json", b"[%b]" % b",".join([b"1"] * json_body.PIECE), [b"1"] * json_body.PIECE),
        ("text/plain", b"[]", [b"[]"]),
        ("text/plain", b"", []),
    ],
)
def test_the_first_events_are_cut_as_the_streams_type_says(given: str, body: bytes, expected: list[bytes]) -> None:
    request = parse_create("s", raw({"content-type": given}), body)
    assert json_body.at_once(request.events_in_pieces(given)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2030-01-02T03:04:05Z", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2030-01-02t03:04:05z", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2030-01-02T03:04:05.5Z", datetime(2030, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)),
        ("2030-01-02T03:04:05.123456789Z", datetime(2030, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)),
        ("2030-01-02T03:04:05-05:30", datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(-timedelta(hours=5.5)))),
        ("2028-02-29T00:00:00Z", datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_a_timestamp_is_read_and_kept_as_it_was_written(value: str, expected: datetime) -> None:
    request = parse_create("s", raw({"stream-expires-at": value}), b"")
    assert request.expires_at == expected
    assert request.expires_header == value


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"stream-forked-from": "/v1/stream/a/b"}, Fork("a/b", None, 0)),
        ({"stream-forked-from": "/runs/7"}, Fork("runs/7", None, 0)),
        ({"stream-forked-from": "/v1/stream/a%20b%C3%A9"}, Fork("a bé", None, 0)),
        ({"stream-forked-from": "/v1/stream/a", "stream-fork-offset": AT_42}, Fork("a", 42, 0)),
        (
            {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": AT_42, "stream-fork-sub-offset": "3"},
            Fork("a", 42, 3),
        ),
        (
            {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": "9999999999999999_9999999999999999"},
            Fork("a", MAX_POSITION, 0),
        ),
    ],
)
def test_a_fork_says_where_it_leaves_its_source(headers: Headers, expected: Fork) -> None:
    request = parse_create("s", raw(headers), b"")
    assert request.fork == expected
    assert request.content_type is None


@pytest.mark.parametrize(
    "headers",
    [
        {"stream-ttl": ""},
        {"stream-ttl": "-1"},
        {"stream-ttl": "+1"},
        {"stream-ttl": "01"},
        {"stream-ttl": "00"},
        {"stream-ttl": "1.0"},
        {"stream-ttl": "1e3"},
        {"stream-ttl": "1\n"},
        {"stream-ttl": " 1"},
        {"stream-ttl": "²"},
        {"stream-ttl": "9" * 30},
        {"stream-ttl": "1", "stream-expires-at": "2030-01-01T00:00:00Z"},
        {"stream-expires-at": ""},
        {"stream-expires-at": "tomorrow"},
        {"stream-expires-at": "2030-01-01"},
        {"stream-expires-at": "2030-01-01T00:00:00"},
        {"stream-expires-at": "2030-01-01 00:00:00Z"},
        {"stream-expires-at": "2030-02-30T00:00:00Z"},
        {"stream-expires-at": "2030-01-01T24:00:01Z"},
        {"stream-expires-at": "2030-01-01T00:00:00Z\n"},
        {"stream-expires-at": "2030-01-01T00:00:00+25:00"},
        {"stream-expires-at": "20300101T000000Z"},
        {"stream-expires-at": "0000-01-01T00:00:00Z"},
        {"stream-expires-at": "0001-01-01T00:00:00+01:00"},
        {"stream-expires-at": "9999-12-31T23:59:59-01:00"},
        {"stream-fork-offset": AT_42},
        {"stream-fork-sub-offset": "1"},
        {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": ""},
        {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": "-1"},
        {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": "now"},
        {"stream-forked-from": "/v1/stream/a", "stream-fork-offset": AT_42 + "\n"},
        {"stream-forked-from": "/v1/stream/a", "stream-fork-sub-offset": "-1"},
        {"stream-forked-from": "/v1/stream/a", "stream-fork-sub-offset": "1.5"},
        {"stream-forked-from": "/v1/stream/a", "stream-fork-sub-offset": ""},
        {"stream-forked-from": "/v1/stream/a%00b"},
        {"stream-forked-from": "/v1/stream/a%ff"},
    ],
)
def test_a_creation_that_cannot_be_meant_is_refused(headers: Headers) -> None:
    with pytest.raises(InvalidRequest):
        parse_create("s", raw(headers), b"")


@pytest.mark.parametrize("source", ["", "/", "a", "/v1/stream/", "/runs/", "/elsewhere/a", "https://other/v1/stream/a"])
def test_a_source_that_is_no_streams_path_does_not_exist(source: str) -> None:
    with pytest.raises(SourceNotFound):
        parse_create("s", raw({"stream-forked-from": source}), b"")


# GET


@pytest.mark.parametrize(
    ("query", "position", "live"),
    [
        ("", 0, Live.NO),
        ("offset=-1", 0, Live.NO),
        ("offset=now", NOW, Live.NO),
        (f"offset={AT_42}", 42, Live.NO),
        (f"offset={AT_42}&live=long-poll", 42, Live.LONG_POLL),
        ("live=sse&offset=now", NOW, Live.SSE),
        ("offset=%2D1", 0, Live.NO),
        ("other=1&other=2&offset=-1", 0, Live.NO),
    ],
)
def test_a_read_starts_where_it_says(query: str, position: int, live: Live) -> None:
    request = parse_read("s", [], query.encode(), with_tail=True)
    assert (request.position, request.live) == (position, live)


@pytest.mark.parametrize(
    "query",
    [
        "offset=",
        "offset",
        "offset=abc",
        "offset=-2",
        "offset=-1%0A",
        "offset=now%0A",
        f"offset={AT_42}%0A",
        f"offset={AT_42}%20",
        "offset=%D9%A0_%D9%A1",
        "offset=0,1",
        "offset=-1&offset=-1",
        "offset=-1&%6Fffset=now",
        "live=sse",
        "live=long-poll",
        "live=",
        "live=SSE&offset=-1",
        "live=true&offset=-1",
        "live=sse&live=sse&offset=-1",
        "cursor=1&cursor=2",
        "tail=1&tail=1",
        "tail=0",
        "tail=",
        "tail=-1",
        "tail=1.5",
        "tail=1e3",
        "tail=%2B1",
        "tail=1%0A",
        "tail=%C2%B2",
        "tail=1&offset=now",
        f"tail=1&offset={AT_42}",
        "&".join(f"p{n}=1" for n in range(40)),
        "offset=\xff",
    ],
)
def test_a_read_that_cannot_be_meant_is_refused(query: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_read("s", [], query.encode("latin-1"), with_tail=True)


@pytest.mark.parametrize(
    ("query", "expected"),
    [("tail=1", 1), ("tail=3&offset=-1", 3), ("tail=007", 7), ("tail=99999999999999999999", MAX_POSITION), ("", None)],
)
def test_a_tail_is_a_number_of_events(query: str, expected: int | None) -> None:
    assert parse_read("s", [], query.encode(), with_tail=True).last_events == expected


def test_a_tail_means_nothing_where_it_is_not_offered() -> None:
    assert parse_read("s", [], b"tail=0", with_tail=False).last_events is None


def test_a_reader_says_what_it_was_acknowledged() -> None:
    request = read_here({"stream-next-offset": AT_42, "stream-closed": "True"}, b"offset=-1")
    assert (request.seen, request.ended) == (42, True)
    request = read_here({"stream-closed": "no"}, b"offset=-1")
    assert (request.seen, request.ended) == (0, False)
    for wrong in ("now", "-1", "42", ""):
        with pytest.raises(InvalidRequest, match="Stream-Next-Offset"):
            read_here({"stream-next-offset": wrong}, b"offset=-1")


def test_an_event_source_resumes_from_its_last_event_id() -> None:
    headers = raw({"last-event-id": AT_42})
    for query in (b"live=sse", b"live=sse&offset=-1", b"live=sse&offset=now", b"live=sse&offset=-1&tail=5"):
        request = parse_read("s", headers, query, with_tail=True)
        assert (request.position, request.last_events, request.live) == (42, None, Live.SSE)
    assert parse_read("s", headers, b"offset=-1", with_tail=True).position == 0
    assert parse_read("s", headers, b"offset=-1&live=long-poll", with_tail=True).position == 0
    assert parse_read("s", raw({"last-event-id": ""}), b"offset=now&live=sse", with_tail=True).position == NOW


EVENT_SOURCE = {"accept": "text/event-stream"}


def test_an_event_source_needs_to_say_neither_live_nor_where() -> None:
    for query in (b"", b"live=sse", b"offset=-1", b"cursor=1"):
        request = parse_read("s", raw(EVENT_SOURCE), query, with_tail=True)
        assert (request.live, request.position, request.wait) == (Live.SSE, 0, PATIENCE)
    at_42 = parse_read("s", raw(EVENT_SOURCE | {"last-event-id": AT_42}), b"", with_tail=True)
    assert (at_42.live, at_42.position, at_42.wait) == (Live.SSE, 42, 0), "what it has read of is there, or gone"
    assert parse_read("s", raw(EVENT_SOURCE), b"offset=now", with_tail=True).position == NOW
    assert parse_read("s", raw(EVENT_SOURCE), b"tail=5", with_tail=True).last_events == 5


def test_a_long_poll_is_one_whatever_its_client_accepts() -> None:
    assert parse_read("s", raw(EVENT_SOURCE), b"live=long-poll&offset=-1", with_tail=True).live is Live.LONG_POLL
    with pytest.raises(InvalidRequest):
        parse_read("s", raw(EVENT_SOURCE), b"live=long-poll", with_tail=True)


def test_who_accepts_other_types_too_has_to_say_live() -> None:
    both = raw({"accept": "application/json, text/event-stream"})
    assert parse_read("s", both, b"", with_tail=True).live is Live.NO
    assert parse_read("s", both, b"live=sse&offset=-1", with_tail=True).wait == 0
    with pytest.raises(InvalidRequest):
        parse_read("s", both, b"live=sse", with_tail=True)


@pytest.mark.parametrize(
    ("query", "wait"),
    [
        ("live=sse&offset=-1", 0),
        ("live=sse&offset=-1&wait=30", 30),
        ("live=long-poll&offset=-1&wait=0.5", 0.5),
        ("live=sse&offset=-1&wait=300", 300),
        ("wait=30", 0),
    ],
)
def test_a_live_read_waits_as_long_as_it_says(query: str, wait: float) -> None:
    assert parse_read("s", [], query.encode(), with_tail=True).wait == wait
    if "live=sse" in query and "wait" in query:
        assert parse_read("s", raw(EVENT_SOURCE), query.encode(), with_tail=True).wait == wait


@pytest.mark.parametrize("wait", ["", "-1", "301", "nan", "x", "1&wait=1"])
def test_a_wait_that_is_no_number_of_seconds_is_refused(wait: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_read("s", [], f"live=sse&offset=-1&wait={wait}".encode(), with_tail=True)


def test_events_have_names_unless_it_is_said_that_they_have_none() -> None:
    assert parse_read("s", [], b"live=sse&offset=-1", with_tail=True).named
    assert parse_read("s", [], b"live=sse&offset=-1&named=true", with_tail=True).named
    assert not parse_read("s", raw(EVENT_SOURCE), b"named=false", with_tail=True).named
    for query in (b"named=false", b"named=false&live=long-poll&offset=-1", b"live=sse&offset=-1&named=no"):
        with pytest.raises(InvalidRequest):
            parse_read("s", [], query, with_tail=True)


@pytest.mark.parametrize("id", ["abc", AT_42 + " ", "42"])
def test_a_last_event_id_that_is_no_offset_is_refused(id: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_read("s", raw({"last-event-id": id}), b"live=sse&offset=-1", with_tail=False)


@pytest.mark.parametrize("name", RESUMING)
@pytest.mark.parametrize("parse", [read_here, read_as_in_flue])
def test_polyfills_say_where_they_stand_in_the_query(name: str, parse: Callable[..., ReadRequest]) -> None:
    at_42 = parse({"last-event-id": AT_42}, b"live=sse&offset=-1").position
    query = f"live=sse&offset=-1&tail=5&{name}={AT_42}".encode()
    assert (parse({}, query).position, parse({}, query).last_events) == (at_42, None)
    assert parse({}, f"live=sse&{name}={AT_42}".encode()).position == at_42, "without any offset"
    assert parse({"last-event-id": "-1"}, query).position == 0, "the header wins"
    assert parse({"last-event-id": ""}, query).position == at_42
    assert parse({}, f"live=sse&offset=now&{name}=".encode()).position == NOW, "an empty one is as if absent"
    assert parse({}, f"live=long-poll&offset=now&{name}={AT_42}".encode()).position == NOW, "as with the header"
    for wrong in (f"{name}=abc", f"{name}={AT_42}&lastEventId={AT_42}", f"{name}=-1%0a"):
        with pytest.raises(InvalidRequest):
            parse({}, f"live=sse&offset=-1&{wrong}".encode())


@pytest.mark.parametrize("name", ["last-event-id", "if-none-match"])
def test_a_header_that_comes_twice_is_refused_in_a_read(name: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_read("s", [(name.encode(), b'"a"')] * 2, b"offset=-1&live=sse", with_tail=False)


def test_a_cursor_is_kept_when_it_is_one_of_ours() -> None:
    assert parse_read("s", [], b"cursor=17", with_tail=False).cursor == 17
    assert parse_read("s", [], b"cursor=abc", with_tail=False).cursor is None


@given(st.binary(max_size=80), st.booleans())
def test_any_query_is_a_request_or_a_refusal(query: bytes, with_tail: bool) -> None:
    with suppress(InvalidRequest):
        parse_read("s", [], query, with_tail=with_tail)


HEADER = st.sampled_from(
    [
        b"content-type", b"stream-closed", b"stream-seq", b"producer-id", b"producer-epoch", b"producer-seq",
        b"stream-ttl", b"stream-expires-at", b"stream-forked-from", b"stream-fork-offset", b"stream-fork-sub-offset",
    ]
)  # fmt: skip
VALUE = st.binary(max_size=20) | st.sampled_from([b"true", b"0", b"application/json", b"/v1/stream/a", AT_42.encode()])


@given(st.lists(st.tuples(HEADER, VALUE), max_size=6), st.binary(max_size=20))
def test_any_headers_are_a_request_or_a_refusal(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    for parse in (parse_append, parse_create):
        with suppress(InvalidRequest, InvalidJson, SourceNotFound):
            parse("s", headers, body)


@pytest.mark.parametrize(
    "value",
    [
        "text/plain",
        "Text/X; a=B",
        "application/vnd.api+json",
        'a/b;x="y;z"',
        "a/b ;c=d",
        "text/plain;",
        "a/" + "b" * 253,
    ],
)
def test_a_media_type_is_taken_on_every_way_in(value: str) -> None:
    assert parse_create("s", raw({"content-type": value}), b"").content_type == value
    assert parse_append("s", raw({"content-type": value}), b"1").media_type == media_type(value)
    assert bodies.parse_create(json.dumps({"contentType": value}).encode()).run.content_type == value
    assert content_type_header(value) == value.encode()


@pytest.mark.parametrize(
    "value",
    [
        "json", "a/", "/b", "a b/c", "a/b; c", "a/b; c=d e", "\xe4/b", "a/b; c=\xe4", "a/" + "b" * 254, "a/b\x01",
        " a/b\n",
    ],
)  # fmt: skip
def test_what_is_no_media_type_is_refused_on_every_way_in(value: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_create("s", raw({"content-type": value}), b"")
    with pytest.raises(InvalidRequest):
        parse_append("s", raw({"content-type": value}), b"1")
    with pytest.raises(InvalidRequest):
        bodies.parse_create(json.dumps({"contentType": value}).encode())
    assert content_type_header(value) == b"application/octet-stream", "of a stream that an earlier version made"


@pytest.mark.parametrize("value", ["a/b\t", "text/plain ", "a/b; ", "a/b;c=d \t"])
def test_a_media_type_has_no_blanks_behind_it(value: str) -> None:
    """Those of a header's value are taken away before it is judged (RFC 9110 §5.5)."""
    with pytest.raises(InvalidRequest):
        parse_create("s", raw({"content-type": value}), b"")
    with pytest.raises(InvalidRequest):
        bodies.parse_create(json.dumps({"contentType": value}).encode())
    assert content_type_header(value) == value.rstrip().encode(), "of a stream that an earlier version made"


@pytest.mark.parametrize("value", ["a/b" + ";  " * 80 + "x", "a/b" + "; " * 120 + "=", 'a/b;x="' + "\\\\" * 120])
def test_no_content_type_takes_long_to_judge(value: str) -> None:
    """A pattern that could be matched in many ways would not end in anybody's lifetime."""
    with pytest.raises(InvalidRequest):
        parse_create("s", raw({"content-type": value}), b"")


@pytest.mark.parametrize("body", [b"[1, 2]", b'[ "\\ud83d" , 1]', b'{"a":  1}'])
def test_a_short_body_is_parsed_at_once_as_in_pieces(body: bytes) -> None:
    assert append_at_once("s", raw(JSON), body) == parse_append("s", raw(JSON), body)


def test_a_body_that_may_take_long_is_left_to_pieces() -> None:
    assert append_at_once("s", raw(JSON), b'["\\ud83d", "%b"]' % (b"x" * json_body.SHORT)) is None
    with pytest.raises(InvalidJson):
        append_at_once("s", raw(JSON), b"[1")
    assert append_at_once("s", raw({"content-type": "text/plain"}), b"[1") == parse_append(
        "s", raw({"content-type": "text/plain"}), b"[1"
    )
    closing = {"stream-closed": "true"}
    assert append_at_once("s", raw(closing), b"") == parse_append("s", raw(closing), b"")
