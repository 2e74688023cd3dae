"""SSE frames (§5.8) and bodies: exact bytes, and what an EventSource makes of them, wherever they are cut."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import frames
from gateway.protocol.batch import LINE, Batch, Encoding, cuts, join
from gateway.protocol.json_body import at_once
from gateway.protocol.offset import format_offset, parse_position
from tests.event_source import read

TEXTS = st.text(
    st.sampled_from("\r\n :\0ab") | st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff"), min_size=1
) | st.sampled_from(
    ["data: x\n\nevent: control\ndata:{}\n\n", "\n\nid: 9\n\n", ":\r\r\n", "\r", "\n", "\r\n", "  a", ""]
)
JSON = st.recursive(
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
MESSAGES = st.lists(JSON.map(lambda value: json.dumps(value).encode()), min_size=1, max_size=4)


def batch(body: bytes, count: int = 1, *, start: int = 41, up_to_date: bool = True, closed: bool = False) -> Batch:
    return Batch(start, start + count, body, up_to_date, closed)


def messages(encoding: Encoding, case: Batch, cursor: bytes, *, first: bool = False) -> bytes:
    return b"".join(at_once(frames.messages_in_pieces(encoding, case, cursor, first=first)))


LARGE = frames.SHARED
PARTS = st.lists(
    st.sampled_from((b"", b"a", b"b" * 100, b"c" * (LARGE - 1), b"d" * LARGE, b"e" * 2 * LARGE)), max_size=8
)


@given(PARTS)
def test_large_parts_stay_alone_and_all_others_are_joined(parts: list[bytes]) -> None:
    found = frames.gathered(memoryview(part) if n % 2 else part for n, part in enumerate(parts))
    assert b"".join(found) == b"".join(parts)
    assert all(found), "none is empty"
    large = [part for part in parts if len(part) >= LARGE]
    assert len(found) <= 2 * len(large) + 1
    assert all(any(part == each for each in found) for part in large)
    assert all(any(part is each for each in found) for part in large if not any(part == other for other in parts[1::2]))


@pytest.mark.parametrize(
    ("form", "encoding"),
    [*((frames.sse_in_pieces, encoding) for encoding in Encoding), (frames.messages_in_pieces, Encoding.JSON)],
)
def test_a_large_event_is_a_part_of_its_own_wherever_one_begins(form: Any, encoding: Encoding) -> None:
    large = {Encoding.JSON: b'"%b"' % (b"x" * LARGE)}.get(encoding, b"x\n" * LARGE)
    gap = b"," if encoding is Encoding.JSON else b""
    own = set[bytes]()
    for small in (0, 1, 2, 7):
        events = [*[b"1" for _ in range(small)], large]
        case = Batch(7 - small, 8, gap.join(events), True, False, [len(event) for event in events])
        parts = at_once(form(encoding, case, b"7"))
        own.update(part for part in parts if len(part) >= LARGE)
        if not small and encoding is Encoding.JSON:
            assert any(part is case.body for part in parts), "no copy"
    assert len(own) == 1


def in_lines(text: str) -> str:
    """A text as any event stream gives it back: its line breaks are all alike."""
    return re.sub("\r\n|\r", "\n", text)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            batch(b'{"a":1},{"b":2}', 2),
            b'id: 0000000000000000_0000000000000043\nevent: data\ndata:[{"a":1},{"b":2}]\n\n'
            b"id: 0000000000000000_0000000000000043\nevent: control\n"
            b'data:{"streamNextOffset":"0000000000000000_0000000000000043","streamCursor":"7","upToDate":true}\n\n',
        ),
        (
            batch(b"1", up_to_date=False),
            b"id: 0000000000000000_0000000000000042\nevent: data\ndata:[1]\n\n"
            b"id: 0000000000000000_0000000000000042\nevent: control\n"
            b'data:{"streamNextOffset":"0000000000000000_0000000000000042","streamCursor":"7"}\n\n',
        ),
        (
            batch(b"1", closed=True),
            b"id: 0000000000000000_0000000000000042\nevent: data\ndata:[1]\n\n"
            b"id: 0000000000000000_0000000000000042\nevent: control\n"
            b'data:{"streamNextOffset":"0000000000000000_0000000000000042","streamClosed":true}\n\n',
        ),
        (
            batch(b"", 0),
            b"id: 0000000000000000_0000000000000041\nevent: control\n"
            b'data:{"streamNextOffset":"0000000000000000_0000000000000041","streamCursor":"7","upToDate":true}\n\n',
        ),
        (
            batch(b"", 0, closed=True),
            b"id: 0000000000000000_0000000000000041\nevent: control\n"
            b'data:{"streamNextOffset":"0000000000000000_0000000000000041","streamClosed":true}\n\n',
        ),
    ],
)
def test_a_batch_is_its_data_and_its_control_event_in_one_piece(case: Batch, expected: bytes) -> None:
    assert frames.sse(Encoding.JSON, case, b"7") == expected
    assert frames.sse(Encoding.JSON, case, b"7", first=True) == b"retry: 1000\n" + expected


def test_for_onmessage_each_event_comes_alone_and_unnamed() -> None:
    control = b'id: %b\nevent: control\ndata:{"streamNextOffset":"%b","streamCursor":"7","upToDate":true}\n\n'
    at_42, at_43 = format_offset(42), format_offset(43)
    expected = b'id: %b\ndata:{"a":1}\n\nid: %b\ndata:[2,"x"]\n\n' % (at_42, at_43) + control % (at_43, at_43)
    case = batch(b'{"a":1},[2,"x"]', 2)
    assert messages(Encoding.JSON, case, b"7") == expected
    assert messages(Encoding.JSON, case, b"7", first=True) == b"retry: 1000\n" + expected
    case.lengths = [7, 7]
    assert messages(Encoding.JSON, case, b"7") == expected
    text = messages(Encoding.TEXT, batch(b"a\nb"), b"7")
    assert text == b"id: %b\ndata:a\ndata:b\n\n" % at_42 + control % (at_42, at_42)
    assert messages(Encoding.TEXT, batch(b"\xe2"), b"7") == control % (at_42, at_42), "half a character"
    assert messages(Encoding.BASE64, batch(b"\0"), b"7").startswith(b"id: %b\ndata:AA==\n\n" % at_42)
    assert messages(Encoding.JSON, batch(b"", 0), b"7") == control % (format_offset(41), format_offset(41))


@given(MESSAGES)
def test_unnamed_or_not_the_events_are_the_same(events: list[bytes]) -> None:
    case = batch(b",".join(events), len(events))
    unnamed = [event for event in read(messages(Encoding.JSON, case, b"7")).events if event.type == "message"]
    assert [event.data.encode() for event in unnamed] == events
    assert [event.last_event_id for event in unnamed] == [
        format_offset(position).decode() for position in range(42, 42 + len(events))
    ]


def test_a_long_batch_of_unnamed_events_gives_way_meanwhile() -> None:
    case = batch(b",".join([b'"x"'] * 20_000), 20_000)
    assert sum(1 for _ in frames.messages_in_pieces(Encoding.JSON, case, b"7")) >= 5


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (b"hello", b"data:hello\n"),
        (b" hello", b"data:  hello\n"),
        (b"a\nb", b"data:a\ndata:b\n"),
        (b"a\r\nb\rc\n", b"data:a\ndata:b\ndata:c\ndata:\n"),
        (b"\n\r", b"data:\ndata:\ndata:\n"),
        (b"data: x", b"data:data: x\n"),
        (b"\n\nevent: control", b"data:\ndata:\ndata:event: control\n"),
    ],
)
def test_text_is_cut_at_every_kind_of_line_break(text: bytes, lines: bytes) -> None:
    head, _, rest = frames.sse(Encoding.TEXT, batch(text), b"7").partition(b"event: data\n")
    assert head == b"id: 0000000000000000_0000000000000042\n"
    assert rest.startswith(lines + b"\nid: ")


def test_other_bytes_are_base64_on_one_line() -> None:
    frame = frames.sse(Encoding.BASE64, batch(b"\x01\x02\x03\xff\r\n"), b"7")
    assert b"\nevent: data\ndata:AQID/w0K\n\n" in frame


def test_a_heartbeat_is_a_comment_and_nothing_else() -> None:
    assert frames.HEARTBEAT == b": heartbeat\n\n"
    reading = read(frames.HEARTBEAT)
    assert (reading.events, reading.fields, reading.comments) == ([], [], [" heartbeat"])


def test_a_heartbeat_leaves_the_last_event_id_as_it_was() -> None:
    frame = frames.sse(Encoding.JSON, batch(b"1"), b"7")
    assert read(frame + frames.HEARTBEAT).last_event_id == "0000000000000000_0000000000000042"


@given(MESSAGES)
def test_json_comes_back_whole(messages: list[bytes]) -> None:
    reading = read(frames.sse(Encoding.JSON, batch(b",".join(messages), len(messages)), b"7"))
    assert [event.type for event in reading.events] == ["data", "control"]
    assert reading.events[0].data.encode() == b"[%b]" % b",".join(messages)
    assert json.loads(reading.events[0].data) == [json.loads(message) for message in messages]


@given(TEXTS)
def test_text_comes_back_but_for_the_kind_of_its_line_breaks(text: str) -> None:
    reading = read(frames.sse(Encoding.TEXT, batch(text.encode()), b"7"))
    assert [event.data for event in reading.events if event.type == "data"] == [in_lines(text)] * bool(text)


@given(st.binary(min_size=1))
def test_bytes_come_back_whole(body: bytes) -> None:
    reading = read(frames.sse(Encoding.BASE64, batch(body), b"7"))
    assert b64decode(reading.events[0].data.replace("\n", ""), validate=True) == body
    assert reading.events[0].data.count("\n") == 0


@given(st.sampled_from([Encoding.TEXT, Encoding.BASE64]), TEXTS.map(str.encode) | st.binary(min_size=1))
def test_no_payload_forges_a_field_or_an_event(encoding: Encoding, body: bytes) -> None:
    frame = frames.sse(encoding, batch(body), b"7")
    reading = read(frame)
    lines = reading.fields.count("data") - 1
    assert reading.fields == [*["id", "event", *["data"] * lines] * bool(lines), "id", "event", "data"]
    assert reading.comments == []
    assert reading.retry is None
    control = reading.events[-1]
    assert control.type == "control"
    assert json.loads(control.data)["streamNextOffset"] == "0000000000000000_0000000000000042"
    assert {event.last_event_id for event in reading.events} == {"0000000000000000_0000000000000042"}
    assert b"\r" not in frame


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=1, max_size=6),
    st.booleans(),
    st.data(),
)
def test_wherever_sse_is_cut_its_id_leads_to_no_gap_or_repeat(
    pieces: list[tuple[int, bool, bool]], closes: bool, data: st.DataObject
) -> None:
    """Law 3. Event n of the log is the number n, so that what was delivered says where the reader really stands."""
    stream = bytearray()
    position = 0
    for number, (count, up_to_date, heartbeat) in enumerate(pieces):
        closed = closes and number == len(pieces) - 1
        body = b",".join(b"%d" % n for n in range(position + 1, position + count + 1))
        piece = Batch(position, position + count, body, up_to_date or closed, closed)
        stream += frames.sse(Encoding.JSON, piece, b"7", first=number == 0)
        stream += frames.HEARTBEAT if heartbeat else b""
        position += count
    for cut in range(len(stream) + 1):
        reading = read(bytes(stream[:cut]))
        delivered = [n for event in reading.events if event.type == "data" for n in json.loads(event.data)]
        assert delivered == list(range(1, len(delivered) + 1))
        resumes_at = parse_position(reading.last_event_id.encode()) if reading.last_event_id else 0
        assert resumes_at == len(delivered)
        controls = [json.loads(event.data) for event in reading.events if event.type == "control"]
        # A client that resumes from control events alone (§5.8) may read the last data again, and never misses any.
        if controls:
            assert controls[-1]["streamNextOffset"].encode() <= format_offset(len(delivered))
        if controls and controls[-1].get("streamClosed"):
            assert len(delivered) == position


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_a_control_event_follows_every_data_event(counts: list[int]) -> None:
    stream = b""
    position = 0
    for count in counts:
        body = b",".join([b"0"] * count)
        stream += frames.sse(Encoding.JSON, Batch(position, position + count, body, True, False), b"7")
        position += count
    types = [event.type for event in read(stream).events]
    assert "".join(type[0] for type in types) == "".join("dc" if count else "c" for count in counts)


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        (Encoding.JSON, b"", b"[]"),
        (Encoding.JSON, b'{"a":1},2', b'[{"a":1},2]'),
        (Encoding.TEXT, b"a\r\nb", b"a\r\nb"),
        (Encoding.BASE64, b"\x00\xff", b"\x00\xff"),
        (Encoding.BASE64, b"", b""),
    ],
)
def test_a_response_body_is_an_array_of_json_or_plain_bytes(encoding: Encoding, body: bytes, expected: bytes) -> None:
    assert b"".join(frames.parts(encoding, batch(body, bool(body)))) == expected


@pytest.mark.parametrize(("size", "head"), [(1, b"1\r\n"), (15, b"f\r\n"), (16, b"10\r\n"), (65_536, b"10000\r\n")])
def test_a_chunk_says_its_length_in_hexadecimal(size: int, head: bytes) -> None:
    assert frames.chunk(b"x" * size) == head + b"x" * size + b"\r\n"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.sampled_from([Encoding.JSON, Encoding.TEXT]))
def test_joined_batches_are_read_as_they_are_read_apart(counts: list[int], encoding: Encoding) -> None:
    batches = []
    position = 5
    for count in counts:
        separator = b"," if encoding is Encoding.JSON else b""
        body = separator.join(b"%d" % n for n in range(position, position + count))
        batches.append(Batch(position, position + count, body, False, False))
        position += count
    batches[-1] = Batch(batches[-1].start, position, batches[-1].body, True, True)
    joined = join(encoding, batches)
    assert (joined.start, joined.end, joined.up_to_date, joined.closed) == (5, position, True, True)
    numbers = [b"%d" % n for n in range(5, position)]
    expected = b"[%b]" % b",".join(numbers) if encoding is Encoding.JSON else b"".join(numbers)
    assert b"".join(frames.parts(encoding, joined)) == expected


SIZES = st.lists(st.sampled_from((0, 1, 7, 900, 11_000, 23_999, 31_990, 32_000, 32_001, 70_000)), max_size=9)


@given(SIZES, st.sampled_from(Encoding), st.booleans(), st.booleans())
def test_no_line_of_several_events_is_longer_than_readers_take(
    sizes: list[int], encoding: Encoding, up_to_date: bool, closed: bool
) -> None:
    sizes = [max(size, 2 if encoding is Encoding.JSON else 1) for size in sizes]  # no event is empty
    events = [b'"%b"' % (b"x" * (size - 2)) if encoding is Encoding.JSON else b"y" * size for size in sizes]
    body = (b"," if encoding is Encoding.JSON else b"").join(events)
    whole = Batch(5, 5 + len(events), body, up_to_date or closed, closed, sizes)
    frame = frames.sse(encoding, whole, b"7", first=True)
    reading = read(frame)
    data = [event for event in reading.events if event.type == "data"]
    controls = [json.loads(event.data) for event in reading.events if event.type == "control"]
    assert [event.type for event in reading.events] == (["data", "control"] * len(data) or ["control"])
    texts = [b64decode(event.data) if encoding is Encoding.BASE64 else event.data.encode() for event in data]
    pieces = [text[1:-1] if encoding is Encoding.JSON else text for text in texts]
    assert (b"," if encoding is Encoding.JSON else b"").join(pieces) == body
    offsets = [parse_position(control["streamNextOffset"].encode()) or 0 for control in controls]
    assert offsets == sorted({*offsets}), "never two controls at one offset"
    assert offsets[-1] == whole.end
    starts = [5, *offsets]
    for start, end, event in zip(starts, offsets, data, strict=False):
        assert event.last_event_id == format_offset(end).decode()
        assert len(event.data) <= LINE + 2 or end == start + 1, "one event that is larger"
    assert not any("upToDate" in control or "streamClosed" in control for control in controls[:-1])
    assert ("streamClosed" in controls[-1], "upToDate" in controls[-1]) == (closed, up_to_date and not closed)


def test_what_is_joined_from_many_notifications_is_split_again() -> None:
    """Notifications tell no lengths: the events are found in their bytes, unless these do not tell."""
    body = b",".join([b'{"n": [1, 2], "t": "%b"}' % (b",x" * 200)] * 10)
    batches = [Batch(n * 10, n * 10 + 10, body, n == 9, False) for n in range(10)]
    joined = join(Encoding.JSON, batches)
    (first, first_end), (last, last_end) = cuts(Encoding.JSON, joined, LINE)
    assert (last, last_end) == (100, len(joined.body))
    parts = [joined.body[:first_end], joined.body[first_end + 1 :]]
    assert [len(json.loads(b"[%b]" % part)) for part in parts] == [first, 100 - first]
    rows_missing = join(Encoding.JSON, [Batch(0, 11, body, False, False), Batch(11, 40, body * 8, True, False)])
    assert cuts(Encoding.JSON, rows_missing, LINE) == [(40, len(rows_missing.body))]


@given(texts=st.lists(TEXTS, min_size=1, max_size=4), piece=st.integers(1, 9), first=st.booleans())
def test_a_frame_that_is_made_in_pieces_is_the_same(texts: list[str], piece: int, first: bool) -> None:
    bodies = [text.encode() for text in texts]
    body, lengths = b"".join(bodies), [len(each) for each in bodies]
    whole = Batch(0, len(bodies), body, True, False, lengths)
    if not body:
        return
    at_once = frames.sse(Encoding.TEXT, whole, b"7", first=first)
    with patch.object(frames, "PIECE", piece), patch.object(frames, "LINE", 10):
        made = frames.sse_in_pieces(Encoding.TEXT, whole, b"7", first=first)
        pieces = 0
        try:
            while True:
                next(made)
                pieces += 1
        except StopIteration as end:
            again = b"".join(end.value)
    assert shown(again) == shown(at_once)
    assert pieces >= max(lengths) // (piece + 1) - 1


def shown(frame: bytes) -> str:
    """The text that a reader is shown of a frame, whose events may be cut differently."""
    return "".join(event.data for event in read(frame).events if event.type == "data")


@pytest.mark.parametrize("text", ["\n", "\r\n", "\n ", "a", "\r"])
def test_no_piece_of_a_long_text_makes_many_lines(text: str) -> None:
    """Counted, not timed."""
    body = text.encode() * ((1 << 20) // len(text))
    made = frames.sse_in_pieces(Encoding.TEXT, Batch(0, 1, body, True, False), b"7")
    assert sum(1 for _ in made) >= len(body) // frames.PIECE
