"""Appends to many streams in one body: each is what the POST that it stands for would be, to the byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import json_body
from gateway.protocol.append import UNNUMBERED, AppendRequest, Producer, parse_heartbeat
from gateway.protocol.appends import MOST_HEAD, TURN, Asked, appends_in_pieces
from gateway.protocol.errors import BatchTooLarge, InvalidJson, InvalidRequest, ProtocolError
from tests.protocol.parsing import parse_append


def parse(body: bytes, most: int = 100) -> list[Asked]:
    return json_body.at_once(appends_in_pieces(body, most))


def lines(*appends: tuple[dict[str, Any], bytes]) -> bytes:
    return b"".join(b"%b\n%b\n" % (json.dumps(head).encode(), events) for head, events in appends)


def one(head: dict[str, Any], events: bytes = b"") -> Asked:
    (asked,) = parse(lines((head, events)))
    return asked


def refused(head: dict[str, Any], events: bytes = b"") -> str:
    error = one(head, events).refused
    assert error is not None
    return f"{error.type}: {error.details}"


json_texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
bodies = st.one_of(
    st.builds(
        lambda value, gap: json.dumps(value, ensure_ascii=False, separators=gap).encode("utf-8", "replace"),
        json_texts,
        st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", ":")]),
    ),
    st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"")),
)
producers = st.none() | st.tuples(st.sampled_from(["a", "é"]), st.integers(0, 9), st.integers(0, 2**53))


@given(st.lists(st.tuples(bodies, producers, st.booleans(), st.sampled_from([None, "s1"])), min_size=1, max_size=5))
def test_each_is_the_post_that_it_stands_for(
    given: list[tuple[bytes, tuple[str, int, int] | None, bool, str | None]],
) -> None:
    appends: list[tuple[dict[str, Any], bytes]] = []
    posts: list[AppendRequest | ProtocolError] = []
    for body, producer, close, seq in given:
        head: dict[str, Any] = {"stream": "runs/1"} | ({"streamClosed": True} if close else {})
        headers = [(b"content-type", b"application/json")] + ([(b"stream-closed", b"true")] if close else [])
        if producer is not None:
            head |= dict(zip(("producerId", "producerEpoch", "producerSeq"), producer, strict=True))
            values = (str(value).encode("latin-1") for value in producer)
            headers += zip((b"producer-id", b"producer-epoch", b"producer-seq"), values, strict=True)
        if seq is not None:
            head["streamSeq"] = seq
            headers.append((b"stream-seq", seq.encode()))
        appends.append((head, body))
        try:
            posts.append(parse_append("", headers, body.strip(b" \t\r") and body))
        except ProtocolError as error:
            posts.append(error)
    for asked, post in zip(parse(lines(*appends), most=10_000), posts, strict=True):
        if isinstance(post, AppendRequest):
            assert (asked.refused, asked.request) == (None, post)
        else:
            assert type(asked.refused) is type(post)
        assert asked.target is not None and asked.target.run == "runs/1"


@pytest.mark.parametrize(
    ("head", "fine"),
    [
        (b'{"stream":"runs/1"}', True),
        (b' { "stream" : "runs/\\u00e9" } ', True),
        (b'{"stream":"%b"}' % (b"x" * 600), True),
        (b'{"stream":"runs/1","streamClosed":true}', True),
        (b'{"stream":"runs/1/heartbeat"}', False),
        (b'{"stream":"runs/1/cancel"}', False),
        (b'{"stream":"a/../b"}', False),
        (b'{"stream":""}', False),
        (b'{"steam":"runs/1"}', False),
    ],
)
def test_a_first_line_says_the_same_each_time(head: bytes, fine: bool) -> None:
    once, again = parse(b"%b\n1\n%b\n[2,3]\n" % (head, head))
    assert (once.request.events, again.request.events) == ([b"1"], [b"2", b"3"]) or not fine
    for asked in once, again:
        assert asked.target == once.target
        assert (asked.refused is None) == fine
        assert asked.request.close == (b"Closed" in head)
        assert repr(asked.refused) == repr(once.refused)


def test_events_are_kept_as_they_came() -> None:
    asked = one({"stream": "a/b"}, b'[{"n": 1.0e0 , "s":"\\ud83d"}, 12345678901234567890 ,  "x"]')
    assert asked.request.events == [b'{"n": 1.0e0 , "s":"\\ud83d"}', b"12345678901234567890", b'"x"']


def test_the_last_line_needs_no_end() -> None:
    assert parse(b'{"stream":"a"}\n1')[0].request.events == [b"1"]
    assert parse(b'{"stream":"a"}\n1\n{"stream":"b","streamClosed":true}\n\n')[1].request.close


def test_a_heartbeat_is_the_one_of_its_run() -> None:
    asked = one({"stream": "runs/1/heartbeat", "producerId": "a", "producerEpoch": 3, "runLease": 9})
    headers = [(b"producer-id", b"a"), (b"producer-epoch", b"3"), (b"run-lease", b"9")]
    asked.request.path = "runs/1"
    assert asked.request == parse_heartbeat("runs/1", headers, b"")
    assert asked.request.producer == Producer("a", 3, UNNUMBERED)
    assert one({"stream": "runs/1/heartbeat"}).request.producer is None


@pytest.mark.parametrize(
    ("head", "events", "why"),
    [
        ({}, b"1", "stream must be there"),
        ({"stream": 1}, b"1", "stream must be there"),
        ({"stream": ""}, b"1", "names no stream"),
        ({"stream": "__ds/subscriptions/a"}, b"1", "names no stream"),
        ({"stream": "a/../b"}, b"1", "No segment"),
        ({"stream": "runs/1/control"}, b"1", "a POST of its own"),
        ({"stream": "runs/1/cancel"}, b"", "a POST of its own"),
        ({"stream": "a", "close": True}, b"1", "'close' is not known here"),
        ({"stream": "a", "streamClosed": "true"}, b"1", "streamClosed must be"),
        ({"stream": "a", "streamSeq": 7}, b"1", "streamSeq must be 1 to 1024 printable"),
        ({"stream": "a", "streamSeq": "€"}, b"1", "streamSeq must be 1 to 1024 printable"),
        ({"stream": "a", "runLease": 7}, b"1", "runLease is for runs"),
        ({"stream": "runs/a", "runLease": True}, b"1", "whole number of seconds from 1"),
        ({"stream": "a", "producerId": "a"}, b"1", "go together"),
        ({"stream": "a", "producerEpoch": 1, "producerSeq": 1}, b"1", "go together"),
        ({"stream": "a", "producerId": "a", "producerSeq": 1}, b"1", "go together"),
        ({"stream": "a", "producerId": "a", "producerEpoch": 1.5, "producerSeq": 1}, b"1", "producerEpoch must be"),
        ({"stream": "a", "producerId": "a", "producerEpoch": 1, "producerSeq": -1}, b"1", "producerSeq must be"),
        ({"stream": "a", "producerId": "", "producerEpoch": 1, "producerSeq": 1}, b"1", "producerId must be"),
        ({"stream": "runs/1/heartbeat", "producerId": "a", "producerEpoch": 1, "producerSeq": 1}, b"", "not counted"),
        ({"stream": "runs/1/heartbeat"}, b"1", "A heartbeat has no events"),
        ({"stream": "runs/1/heartbeat", "streamClosed": True}, b"", "A heartbeat has no events"),
        ({"stream": "a"}, b" ", "An empty line appends nothing"),
    ],
)
def test_what_a_line_cannot_say_is_refused_alone(head: dict[str, Any], events: bytes, why: str) -> None:
    assert why in refused(head, events)
    assert refused(head, events).startswith("invalid_request")
    first, second = parse(lines((head, events), ({"stream": "b"}, b"1")))
    assert isinstance(first.refused, InvalidRequest) and second.request.events == [b"1"]


def test_bad_json_is_refused_alone() -> None:
    assert refused({"stream": "a"}, b"[1,NaN]").startswith("invalid_json: Event 1")
    assert refused({"stream": "a"}, b"[]").startswith("invalid_json")


@pytest.mark.parametrize(
    "body", [b"", b"\n", b'{"stream":"a"}', b'{"stream":"a"}\n1\n\n', b"[1]\n1", b"{\n1", b'"x"\n1', b"1\n2\n3\n4"]
)
def test_a_body_without_such_lines_is_refused_whole(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"two lines|Line 1 is not a JSON object"):
        parse(body)


def test_a_first_line_may_not_be_long() -> None:
    with pytest.raises(InvalidRequest, match="Line 3 is not"):
        parse(lines(({"stream": "a"}, b"1"), ({"stream": "b" * MOST_HEAD}, b"1")))


def test_appends_and_events_are_counted_together() -> None:
    assert len(parse(lines(*[({"stream": "a"}, b"[1,2]")] * 5), most=10)) == 5
    for body in (
        lines(*[({"stream": "a"}, b"[1,2]")] * 5, ({"stream": "a"}, b"1")),
        lines(*[({"stream": "a", "streamClosed": True}, b"")] * 11),
        lines(({"stream": "a"}, b"[%b]" % b",".join([b"1"] * 11))),
        lines(({"stream": "a"}, b"[%b]" % b",".join([b"1"] * 100_000))),
        b"\n" * 3_000_000,
    ):
        with pytest.raises(BatchTooLarge, match="At most 10 "):
            parse(body, most=10)


def test_much_is_parsed_in_turns() -> None:
    def turns(body: bytes) -> int:
        return sum(1 for _ in appends_in_pieces(body, 100_000))

    few = turns(lines(({"stream": "a"}, b"1")))
    assert turns(lines(*[({"stream": "a"}, b"1")] * TURN * 10)) >= few + 9
    assert turns(lines(*[({"stream": "a"}, b'"%b"' % (b"x" * 50_000))] * 200)) >= few + 10


def test_an_invalid_long_line_is_refused_alone() -> None:
    first, second = parse(lines(({"stream": "a"}, b"[%b" % (b"1," * 40_000)), ({"stream": "b"}, b"2")), most=100_000)
    assert isinstance(first.refused, InvalidJson) and second.request.events == [b"2"]
