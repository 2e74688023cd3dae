"""What a client has already, by the number that it gives."""

from __future__ import annotations

import pytest

from gateway.relay.cursors import Cursor
from gateway.relay.framing import Kind

COUNT = Cursor.parse("startIndex = frames")
NUMBER = Cursor.parse("starting_after > sequence_number")
NUMBERED = [b'data: {"sequence_number":%d}\n\n' % n for n in range(4)] + [b"data: [DONE]\n\n"]


def left(cursor: Cursor, query: dict[str, str], frames: list[bytes], kind: Kind = "sse") -> list[bytes]:
    skip = cursor.skip(kind, query)
    return frames if skip is None else [frame for frame in frames if not skip(frame)]


def test_a_count_is_of_frames_with_data() -> None:
    frames = [b"data: 0\n\n", b": c\n\n", b"event: x\n\n", b"data: 1\n\n", b"event: y\n\n", b"data: 2\n\n"]
    assert left(COUNT, {"startIndex": "0"}, frames) == frames
    assert left(COUNT, {"startIndex": "2"}, frames) == frames[4:]
    assert left(COUNT, {"startIndex": "9"}, frames) == []


def test_a_count_of_ndjson_is_of_lines() -> None:
    assert left(COUNT, {"startIndex": "1"}, [b"1\n", b"\n", b"2\n"], "ndjson") == [b"\n", b"2\n"]


def test_a_number_is_compared_with_that_of_each_frame() -> None:
    assert left(NUMBER, {"starting_after": "1"}, NUMBERED) == NUMBERED[2:]
    assert left(NUMBER, {"starting_after": "4"}, NUMBERED) == []


def test_half_an_emoji_hides_no_number() -> None:
    frames = [rb'data: {"sequence_number":%d,"delta":"\ud83d"}' % n + b"\n\n" for n in range(3)]
    assert left(NUMBER, {"starting_after": "1"}, frames) == frames[2:]


def test_an_end_without_a_number_is_given_to_who_has_the_rest() -> None:
    lost = b'event: error\ndata: {"type":"error"}\n\n'
    assert left(NUMBER, {"starting_after": "3"}, NUMBERED) == NUMBERED[4:]
    assert left(NUMBER, {"starting_after": "1"}, [*NUMBERED[:2], lost]) == [lost]
    assert left(NUMBER, {"starting_after": "0"}, [lost, *NUMBERED[:2]]) == NUMBERED[1:2]


@pytest.mark.parametrize("given", ["", "-1", "x", "1.5", "9" * 16])
def test_what_is_no_number_begins_at_the_start(given: str) -> None:
    assert left(COUNT, {"startIndex": given}, NUMBERED) == NUMBERED
    assert left(NUMBER, {}, NUMBERED) == NUMBERED


@pytest.mark.parametrize("text", ["startIndex", "a = b", "a > ", "a < b"])
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be such as"):
        Cursor.parse(text)
