"""The offset of a reader of many streams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import base64url
from gateway.protocol.composite import OVER, UNBEGUN, Composite, digest, parse, varint, varints
from gateway.protocol.offset import MAX_POSITION, join

OF = digest(["runs/a", "runs/b"])
POSITIONS = st.one_of(
    st.sampled_from([OVER, UNBEGUN, 0, 1, 127, 128]),
    st.builds(join, st.sampled_from([0, 1, 900, 2**21]), st.integers(0, 2**40 - 1)),
)


@given(st.lists(POSITIONS, max_size=60))
def test_what_is_written_is_read_again(positions: list[int]) -> None:
    assert parse(bytes(Composite(OF, positions)), OF, len(positions)) == positions


@given(st.lists(POSITIONS, min_size=1, max_size=20), st.data())
def test_moving_one_stream_is_as_writing_all_anew(positions: list[int], data: st.DataObject) -> None:
    composite = Composite(OF, positions)
    for _ in range(5):
        place = data.draw(st.integers(0, len(positions) - 1))
        positions[place] = data.draw(POSITIONS)
        composite.move(place, positions[place])
        assert parse(bytes(composite), OF, len(positions)) == positions


@given(st.binary(max_size=60), st.integers(0, 20))
def test_any_other_text_is_refused_or_means_positions(text: bytes, count: int) -> None:
    for each in (text, base64url.encode(OF + text).encode()):
        positions = parse(each, OF, count)
        if positions is not None:
            assert len(positions) == count
            assert all(at in (OVER, UNBEGUN) or 0 <= at <= MAX_POSITION for at in positions)


def test_it_is_bound_to_the_streams_and_their_order() -> None:
    text = bytes(Composite(OF, [1, 2]))
    assert parse(text, OF, 2) == [1, 2]
    assert parse(text, digest(["runs/b", "runs/a"]), 2) is None
    assert parse(text, OF, 3) is None
    assert parse(text, OF, 1) is None


def test_it_is_small_for_a_thousand_streams() -> None:
    assert len(bytes(Composite(OF, [16_000] * 1000))) < 2_700
    assert len(bytes(Composite(OF, [5_000] * 40))) < 125
    mostly_over = [OVER] * 480 + [70] * 40 + [OVER] * 480
    assert len(bytes(Composite(OF, mostly_over))) < 80


@pytest.mark.parametrize("number", [0, 1, 127, 128, 2**40, 2**62])
def test_a_number_takes_seven_bits_a_byte(number: int) -> None:
    assert varints(varint(number) + varint(5)) == [number, 5]
    assert len(varint(number)) == max(1, -(-number.bit_length() // 7))


@pytest.mark.parametrize("data", [b"\x80", b"\xff" * 11])
def test_half_a_number_is_none(data: bytes) -> None:
    with pytest.raises(ValueError, match="no "):
        varints(data)
