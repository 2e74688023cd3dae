"""The event stream parser, and the joining of data to control: any way of cutting the bytes gives the same."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from run_gateway import BadAnswer, Parser, Step, Steps, elements, unbase64
from run_gateway.sse import Event

LINE_ENDS = ("\n", "\r", "\r\n")
values = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)
lines = st.one_of(
    st.sampled_from(
        ["", ":", ": heartbeat", "data", "data:", "data: ", "event: data", "event:control", "id: 7", "retry: 5"]
    ),
    values.map("data: {}".format),
    values.map("data:{}".format),
    values.map("event: {}".format),
    values,
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces, some of them empty."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def by_the_book(text: str) -> list[Event]:
    """The HTML standard, §9.2.6, over a whole text at once."""
    events, kind, data = [], "", ""
    whole_lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
    for line in whole_lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append(Event(kind or "message", data.removesuffix("\n")))
            kind = data = ""
        elif name == "event":
            kind = value
        elif name == "data":
            data += value + "\n"
    return events


@given(
    st.lists(st.tuples(lines, st.sampled_from(LINE_ENDS)), max_size=20), st.lists(st.integers(0, 10_000)), st.booleans()
)
def test_any_split_of_any_bytes_gives_the_events_of_the_standard(
    written: list[tuple[str, str]], places: list[int], bom: bool
) -> None:
    text = ("\ufeff" if bom else "") + "".join(line + end for line, end in written)
    parser = Parser()
    assert [event for piece in cut(text.encode(), places) for event in parser.feed(piece)] == by_the_book(text)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_invalid_utf8_is_parsed_the_same_however_it_is_cut(data: bytes, places: list[int]) -> None:
    whole, parser = Parser().feed(data), Parser()
    assert [event for piece in cut(data, places) for event in parser.feed(piece)] == whole


def test_an_event_ends_with_the_first_byte_of_its_empty_line() -> None:
    parser = Parser()
    assert parser.feed(b"data: 1\r\n\r") == [Event("message", "1")]
    assert parser.feed(b"\ndata: 2\r") == []
    assert parser.feed(b"\r") == [Event("message", "2")]


def test_an_event_that_has_not_come_whole_is_not_given() -> None:
    assert Parser().feed(b"event: data\ndata: 1\n") == []


def test_data_counts_with_the_control_that_follows_it() -> None:
    steps = Steps()
    assert steps.feed(b"event: data\ndata:[1]\n\n") == []
    assert steps.feed(b'event: control\ndata:{"streamNextOffset":"0_1","streamCursor":"9","upToDate":true}\n\n') == [
        Step(("[1]",), "0_1", cursor="9", up_to_date=True)
    ]
    assert steps.feed(b'event: control\ndata:{"streamNextOffset":"0_1","streamClosed":true}\n\n') == [
        Step((), "0_1", closed=True)
    ]


@pytest.mark.parametrize("control", ["{}", "[]", "7", "{", '{"offset":"1"}'])
def test_a_control_event_without_an_offset_is_refused(control: str) -> None:
    with pytest.raises(BadAnswer, match="streamNextOffset"):
        Steps().feed(f"event: control\ndata:{control}\n\n".encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(json_values), st.sampled_from([None, 2]), st.booleans())
def test_the_elements_of_an_array_are_printed_each_on_one_line(
    events: list[object], indent: int | None, ascii_only: bool
) -> None:
    found = elements(json.dumps(events, indent=indent, ensure_ascii=ascii_only))
    assert [json.loads(element) for element in found] == events
    assert not any("\n" in element for element in found)


def test_elements_are_given_as_they_were_written() -> None:
    assert elements('[1.10, 123456789012345678901234567890,{"a": "],\\"["}]') == [
        "1.10",
        "123456789012345678901234567890",
        '{"a": "],\\"["}',
    ]


def test_depth_is_no_danger() -> None:
    deep = "[" * 100_000 + "]" * 100_000
    assert elements(f"[{deep}]") == [deep]


@pytest.mark.parametrize("text", ["", "1", "[1", "{}", '{"a":[1]}'])
def test_what_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(BadAnswer, match="not a JSON array"):
        elements(text)


def test_base64_may_be_broken_into_lines() -> None:
    assert unbase64("AQID\nBAUG") == b"\1\2\3\4\5\6"
    with pytest.raises(BadAnswer):
        unbase64("A?ID")
