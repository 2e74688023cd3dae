"""Offsets (§8): fixed width, sorted as bytes are, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.offset import (
    MAX_POSITION,
    NOW,
    START,
    format_offset,
    join,
    parse_offset,
    parse_position,
    split,
)

POSITIONS = st.integers(0, MAX_POSITION) | st.integers(2**40 - 3, 2**40 + 3)


@pytest.mark.parametrize(
    ("position", "token"),
    [
        (0, b"0000000000000000_0000000000000000"),
        (1, b"0000000000000000_0000000000000001"),
        (42, b"0000000000000000_0000000000000042"),
        (2**40 - 1, b"0000000000000000_0001099511627775"),
        (2**40, b"0000000000000001_0000000000000000"),
        (317 * 2**40 + 42, b"0000000000000317_0000000000000042"),
        (MAX_POSITION, b"0000000004194303_0001099511627775"),
    ],
)
def test_a_position_is_written_as_two_numbers_of_sixteen_digits(position: int, token: bytes) -> None:
    assert format_offset(position) == token
    assert parse_position(token) == position


@given(POSITIONS)
def test_what_was_written_is_read_back(position: int) -> None:
    assert parse_position(format_offset(position)) == position
    assert parse_offset(format_offset(position)) == position


@given(POSITIONS, POSITIONS)
def test_comparing_bytes_compares_positions(one: int, other: int) -> None:
    assert (format_offset(one) < format_offset(other)) == (one < other)
    assert (format_offset(one) == format_offset(other)) == (one == other)


def test_the_sentinels_are_the_start_and_now_and_never_written() -> None:
    assert parse_offset(b"-1") == START == 0
    assert parse_offset(b"now") == NOW
    assert parse_position(b"-1") is None
    assert parse_position(b"now") is None
    assert NOW < 0, "no position of the log is mistaken for it"


@pytest.mark.parametrize("token", [b"0_42", b"0_0000000000000042", b"0000000000000000_42"])
def test_a_shorter_token_names_the_same_position(token: bytes) -> None:
    assert parse_position(token) == 42


def test_what_lies_beyond_the_databases_numbers_is_cut_off_there() -> None:
    assert parse_position(b"9999999999999999_9999999999999999") == MAX_POSITION < 2**63


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"_",
        b"42",
        b"_42",
        b"42_",
        b"0_0_0",
        b"-1_0",
        b"0_-1",
        b"+1_0",
        b" 0_1",
        b"0_1 ",
        b"0_1\n",
        b"0_1\r\n",
        b"-1\n",
        b"now\n",
        b"NOW",
        b"-2",
        b"0_1e3",
        b"0x1_0",
        b"00000000000000000_0",
        b"0_00000000000000001",
        "٠_١".encode(),
        b"\xb2_1",
        b"0,1",
        b"0/1",
        b"0_1\x00",
    ],
)
def test_nothing_else_is_an_offset(token: bytes) -> None:
    assert parse_offset(token) is None
    assert parse_position(token) is None


@given(st.binary(max_size=40))
def test_any_bytes_are_a_position_or_none(token: bytes) -> None:
    position = parse_position(token)
    assert position is None or 0 <= position <= MAX_POSITION


def test_a_position_is_taken_apart_and_put_together() -> None:
    assert join(*split(317 * 2**40 + 42)) == 317 * 2**40 + 42
    with pytest.raises(ValueError, match="events"):
        join(0, 2**40)
