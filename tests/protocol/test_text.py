"""Text streams over SSE: wherever appends cut the text, and wherever readers begin, they are shown the same text."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import frames
from gateway.protocol.batch import LINE, Batch, Encoding, after, join
from gateway.protocol.text import EDGE, edge, is_utf8
from tests.event_source import read

PIECES = st.sampled_from([b"a", b" ", b"\r", b"\n", b"\r\n", "é".encode(), "€".encode(), "😀".encode()])
BROKEN = st.sampled_from(
    [b"\x80", b"\xc3", b"\xe2\x82", b"\xe0\x80", b"\xed\xa0", b"\xf0\x9f\x98", b"\xf4\x90", b"\xff"]
)
BYTES = st.lists(PIECES | BROKEN, min_size=1, max_size=12).map(b"".join)


# With one of these behind it, every beginning of a character is one.
RESTS = [bytes([first, *[0x80] * more]) for first in (0x80, 0x90, 0xA0) for more in range(3)]


def is_a_character(text: bytes) -> bool:
    found = text.decode("utf-8", "replace")
    return len(found) == 1 and found.encode() == text


def text_of(stream: bytes) -> str:
    """What a stream says; a character that is not finished at its end is waited for."""
    for length in (1, 2, 3):
        begun = stream[-length:]
        if any(is_a_character(begun + rest) for rest in RESTS):
            return text_of(stream[:-length] + b".")[:-1]  # what is before it is as broken as it was
    return re.sub("\r\n|\r", "\n", stream.decode("utf-8", "replace"))


def shown(stream: bytes) -> str:
    return "".join(event.data for event in read(stream).events if event.type == "data")


def events_of(text: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1)))) if len(text) > 1 else []
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def a_batch(events: list[bytes], start: int, end: int) -> Batch:
    body, lengths = b"".join(events[start:end]), [len(event) for event in events[start:end]]
    before = edge(b"", b"".join(events[:start]))
    return Batch(start, end, body, True, end == len(events), lengths, before=before)


@given(BYTES, st.data())
def test_text_is_the_same_wherever_it_is_cut(text: bytes, data: st.DataObject) -> None:
    events = events_of(text, data)
    stops = sorted({0, len(events), *data.draw(st.sets(st.integers(0, len(events))))})
    batches = [a_batch(events, a, b) for a, b in pairwise(stops)]
    stream = b"".join(frames.sse(Encoding.TEXT, batch, b"7") for batch in batches)
    assert shown(stream) == text_of(text)
    assert shown(frames.sse(Encoding.TEXT, join(Encoding.TEXT, batches), b"7")) == text_of(text)


@given(BYTES, st.data())
def test_who_resumes_anywhere_gets_exactly_the_rest(text: bytes, data: st.DataObject) -> None:
    events = events_of(text, data)
    whole = a_batch(events, 0, len(events))
    for position in range(len(events) + 1):
        rest = after(Encoding.TEXT, whole, position)
        assert rest is not None
        first = frames.sse(Encoding.TEXT, a_batch(events, 0, position), b"7")
        assert shown(first + frames.sse(Encoding.TEXT, rest, b"7")) == text_of(text)


def test_a_long_text_is_cut_into_events_between_characters() -> None:
    text = ("😀\r\n" * LINE).encode()
    events = [text[n : n + 999] for n in range(0, len(text), 999)]
    frame = frames.sse(Encoding.TEXT, a_batch(events, 0, len(events)), b"7")
    assert shown(frame) == "😀\n" * LINE
    assert frame.count(b"event: data\n") > 5


def test_an_append_that_shows_nothing_yet_moves_the_offset() -> None:
    frame = frames.sse(Encoding.TEXT, Batch(1, 2, b"\x9f", True, False, before=b"a\xf0"), b"7")
    assert [(event.type, event.last_event_id[-1]) for event in read(frame).events] == [("control", "2")]


@given(st.binary(max_size=9), st.binary(max_size=9))
def test_the_edge_is_that_of_all_that_came(before: bytes, body: bytes) -> None:
    assert edge(edge(b"", before), body) == (before + body)[-EDGE:]


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("text/plain", Encoding.TEXT),
        ("text/plain; charset=utf-8", Encoding.TEXT),
        ('TEXT/Markdown;a=b; Charset="UTF-8"', Encoding.TEXT),
        ("text/plain;charset=us-ascii", Encoding.TEXT),
        ("text/plain;charset=iso-8859-1", Encoding.BASE64),
        ('text/plain; charset="UTF-16"', Encoding.BASE64),
        ("application/json; charset=latin1", Encoding.JSON),
    ],
)
def test_text_that_is_not_utf8_goes_as_base64(content_type: str, encoding: Encoding) -> None:
    assert Encoding.of(content_type) is encoding
    assert is_utf8(content_type) == (encoding is Encoding.TEXT) or encoding is Encoding.JSON
