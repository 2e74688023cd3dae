"""Batches: the part after a position, the lengths of events, and what cannot be told from the bytes."""

from __future__ import annotations

import pytest

from gateway.protocol.batch import LINE, Batch, Encoding, Stream, after, cuts, join, measured

JSON, TEXT = Encoding.JSON, Encoding.TEXT


def batch(body: bytes, count: int, lengths: list[int] | None = None, *, start: int = 0) -> Batch:
    return Batch(start, start + count, body, False, False, lengths)


def test_the_part_after_a_position_begins_with_the_next_event() -> None:
    whole = batch(b"1,22,333", 3, [1, 2, 3])
    assert after(JSON, whole, 0) is whole
    assert after(JSON, whole, 1) == batch(b"22,333", 2, start=1)
    assert after(TEXT, batch(b"122333", 3, [1, 2, 3]), 2) == batch(b"333", 1, start=2)
    assert after(JSON, whole, 3) == batch(b"", 0, start=3)


@pytest.mark.parametrize("position", [4, 9, -1])
def test_there_is_no_part_after_a_position_outside(position: int) -> None:
    assert after(JSON, batch(b"1,22", 2, [1, 2], start=5), position) is None


def test_without_lengths_a_batch_has_no_part() -> None:
    assert after(JSON, batch(b"1,22", 2), 1) is None


def test_where_a_batch_is_cut_is_found_once() -> None:
    whole = batch(b"1,22,333", 3, [1, 2, 3])
    found = cuts(JSON, whole, 4)
    assert found == [(2, 4), (3, 8)]
    assert cuts(JSON, whole, 1) is found


@pytest.mark.parametrize(
    ("encoding", "given", "expected"),
    [
        (JSON, batch(b"", 0), []),
        (TEXT, batch(b"one", 1), [3]),
        (JSON, batch(b'1,"a,b",[2,3]', 3), [1, 5, 5]),
        (TEXT, batch(b"onetwo", 2), None),
        (JSON, batch(b"1,", 2), None),
        (JSON, batch(b"1,2", 3), None),
        (JSON, batch(b"1, 2", 2), None),
    ],
)
def test_lengths_are_those_that_the_bytes_tell(encoding: Encoding, given: Batch, expected: list[int] | None) -> None:
    assert measured(encoding, given) == expected


def test_a_long_joined_batch_knows_its_lengths_where_all_do() -> None:
    long = b"x" * LINE
    parts = [batch(b'"%b"' % long, 1), batch(b"1,2", 2, [1, 1], start=1)]
    assert join(JSON, parts).lengths == [LINE + 2, 1, 1]
    assert join(TEXT, [batch(long, 1), batch(b"ab", 2, start=1)]).lengths is None


def test_a_stream_travels_as_its_content_type_says() -> None:
    def encoding(content_type: str) -> Encoding:
        return Stream(1, "s", content_type, 0, False).encoding

    assert encoding("Application/JSON; charset=x") is JSON
    assert encoding("text/plain") is TEXT
    assert encoding("text/plain; charset=utf-16") is Encoding.BASE64
    assert encoding("image/png") is Encoding.BASE64
