"""Requests for many streams, and their frames."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from gateway.protocol import json_body, many
from gateway.protocol.batch import LINE, Batch, Encoding
from gateway.protocol.composite import OVER, UNBEGUN, Composite, digest
from gateway.protocol.errors import InvalidRequest, StreamNotFound
from gateway.protocol.frames import SHARED
from gateway.protocol.many import MAX_STREAM, MOST, Line, ManyRequest, Wanted, frame, parts, refused
from gateway.protocol.offset import NOW, format_offset

AT = format_offset(7).decode()
ID = bytes(Composite(digest(["a", "b"]), [3, OVER]))


def body(**fields: Any) -> bytes:
    return orjson.dumps(fields)


def parse_many(headers: list[tuple[bytes, bytes]], query: bytes, asked: bytes | None) -> ManyRequest:
    return many.parse_many(headers, query, None if asked is None else json_body.at_once(many.asked_in_pieces(asked)))


def test_a_get_names_each_stream_in_its_query() -> None:
    request = parse_many([], b"live=sse&stream=a&stream=runs%2Fb&offset=now", None)
    assert request.streams == (Wanted("a", NOW), Wanted("runs/b", NOW))
    assert request.positions is None and not request.resumed
    assert [request.start(place) for place in (0, 1)] == [NOW, NOW]


def test_a_body_may_say_more_of_each() -> None:
    asked = body(streams=["a", {"stream": "b", "offset": AT, "token": "t"}, {"stream": "c", "offset": "now"}])
    assert parse_many([], b"live=sse", asked).streams == (Wanted("a", 0), Wanted("b", 7, "t"), Wanted("c", NOW))


@pytest.mark.parametrize("headers", [[(b"last-event-id", ID)], []])
def test_an_offset_of_all_goes_before_where_they_begin(headers: list[tuple[bytes, bytes]]) -> None:
    query = b"live=sse&stream=a&stream=b" + (b"&offset=now" if headers else b"&offset=" + ID)
    request = parse_many(headers, query, None)
    assert request.resumed == bool(headers)
    assert [request.start(place) for place in (0, 1)] == [3, OVER]


def test_one_that_was_not_begun_begins_where_the_request_says() -> None:
    unbegun = bytes(Composite(digest(["a", "b"]), [3, UNBEGUN]))
    request = parse_many([(b"last-event-id", unbegun)], b"live=sse&stream=a&stream=b&offset=now", None)
    assert [request.start(place) for place in (0, 1)] == [3, NOW]


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        (b"stream=a", None),
        (b"live=long-poll&stream=a", None),
        (b"live=sse", None),
        (b"live=sse&stream=a&stream=a", None),
        (b"live=sse&stream=a&offset=0_7&offset=0_7", None),
        (b"live=sse&stream=a&offset=" + ID, None),
        (b"live=sse&stream=a&offset=", None),
        (b"live=sse&stream=a", body(streams=["b"])),
        (b"live=sse", b""),
        (b"live=sse", b"[]"),
        (b"live=sse", body()),
        (b"live=sse", body(streams="a")),
        (b"live=sse", body(streams=[])),
        (b"live=sse", body(streams=[1])),
        (b"live=sse", body(streams=[{"offset": AT}])),
        (b"live=sse", body(streams=[{"stream": "a", "more": 1}])),
        (b"live=sse", body(streams=[{"stream": "a", "offset": "x"}])),
        (b"live=sse", body(streams=[{"stream": "a", "offset": 1}])),
        (b"live=sse", body(streams=[{"stream": "a", "token": 1}])),
        (b"live=sse", body(streams=["a"], offset=1)),
        (b"live=sse", body(streams=["a"], more=1)),
        (b"live=sse", body(streams=["a" * MAX_STREAM])),
        (b"live=sse", body(streams=[["a"]])),
        (b"live=sse", b'{"streams":["\\ud83d"]}'),
        (b"live=sse", body(streams=[f"{n}" for n in range(MOST + 1)])),
    ],
)
def test_what_cannot_be_meant_is_refused(query: bytes, asked: bytes | None) -> None:
    with pytest.raises(InvalidRequest):
        parse_many([], query, asked)


def whole(line: Line) -> bytes:
    return line if isinstance(line, bytes) else b"".join(line)


def test_a_frame_is_one_event_with_a_line_for_each_stream() -> None:
    told = parts("runs/a", Encoding.JSON, Batch(0, 2, b'{"n":1},{"n":2}', True, False), 0)
    told += parts("b", Encoding.JSON, Batch(1, 1, b"", True, True), 0)
    assert b"".join(frame(b"ID", told, first=True)) == (
        b"retry: 1000\nid: ID\n"
        b'data:[{"stream":"runs/a","streamNextOffset":"0000000000000000_0000000000000002","upToDate":true,'
        b'"events":[{"n":1},{"n":2}]},\n'
        b'data:{"stream":"b","streamNextOffset":"0000000000000000_0000000000000001","streamClosed":true}]\n\n'
    )


def test_text_and_bytes_have_names_of_their_own() -> None:
    (text,) = parts("t", Encoding.TEXT, Batch(1, 2, "é\r\n".encode()[1:], False, False, before=b"\xc3"), 5)
    assert json.loads(whole(text)) == {
        "stream": "t",
        "streamNextOffset": format_offset(2).decode(),
        "behind": 5,
        "text": "é\r\n",
    }
    (data,) = parts("t", Encoding.BASE64, Batch(1, 2, b"\0\xff", False, False), 0)
    assert json.loads(whole(data))["base64"] == "AP8="


def test_no_line_is_longer_than_that_of_one_stream() -> None:
    event = b'"%b"' % (b"x" * 98)
    batch = Batch(0, 1000, b",".join([event] * 1000), True, True, [100] * 1000)
    told = [json.loads(whole(part)) for part in parts("a", Encoding.JSON, batch, 0)]
    assert [each for part in told for each in part["events"]] == ["x" * 98] * 1000
    assert len(told) == 4 and all(len(json.dumps(part["events"])) < LINE + 1000 for part in told)
    count = 0
    for part in told:
        count += len(part["events"])
        assert part["streamNextOffset"] == format_offset(count).decode(), "an offset is after its events"
    assert [part.get("streamClosed") for part in told] == [None, None, None, True]


def test_a_large_event_is_a_piece_of_its_own() -> None:
    """Also of text and of bytes, for readers who come with others, from other places, and under other offsets."""
    for encoding in Encoding:
        large = b'"%b"' % (b"x" * SHARED)
        found = set[bytes]()
        for small in range(3):
            events = [*[b"1" for _ in range(small)], large]
            body = (b"," if encoding is Encoding.JSON else b"").join(events)
            batch = Batch(3 - small, 4, body, True, False, [len(each) for each in events])
            pieces = frame(b"ID%d" % small, [b"{}"] * small + parts(f"runs/{small}", encoding, batch, 0))
            assert json.loads(b"".join(pieces).partition(b"data:")[2].replace(b"\ndata:", b""))[-1]["upToDate"]
            found.update(piece for piece in pieces if len(piece) >= SHARED)
        assert len(found) == 1


def test_a_refusal_is_the_word_of_its_stream() -> None:
    assert json.loads(refused("a", StreamNotFound())) == {
        "stream": "a",
        "error": {"status": 404, "type": "stream_not_found", "message": "There is no such stream.", "details": None},
    }


def test_a_list_is_named_by_its_filters() -> None:
    assert many.names_a_list(b"live=sse&metadata.user=u1")
    assert many.names_a_list(b"status=active")
    assert not many.names_a_list(b"live=sse&stream=metadata.user")


@pytest.mark.parametrize("query", [b"fold=a:b&fold=a:b&stream=a", b"stream=\xff", b"&".join([b"stream=a"] * 257)])
def test_a_query_that_cannot_be_meant_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_many([], b"live=sse&" + query, None)
