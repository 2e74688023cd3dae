"""The offset of a reader of all runs that a list names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import base64url
from gateway.protocol.changes import Snapshot, Standing
from gateway.protocol.composite import OVER, UNBEGUN, varint
from gateway.protocol.list_offset import parse, write
from gateway.protocol.offset import join

OF = b"abcd"
POSITIONS = st.one_of(
    st.sampled_from([OVER, UNBEGUN, 0, 1]), st.builds(join, st.sampled_from([0, 5, 2**20]), st.integers(0, 2**40 - 1))
)
TOLD = st.builds(
    Standing,
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.builds(Snapshot, st.integers(60, 2**50), st.frozensets(st.integers(0, 59), max_size=5)),
)


@given(TOLD, st.dictionaries(st.integers(1, 2**50), POSITIONS, max_size=40))
def test_what_is_written_is_read_again(standing: Standing, positions: dict[int, int]) -> None:
    text = write(OF, standing, positions)
    assert parse(text, OF, 40) == (standing, positions)
    assert parse(text, b"dcba", 40) is None, "of another list"
    assert not positions or parse(text, OF, len(positions) - 1) is None, "of too many runs"


@given(st.binary(max_size=60))
def test_any_other_text_is_refused_or_means_something(text: bytes) -> None:
    for each in (text, base64url.encode(OF + text).encode()):
        found = parse(each, OF, 20)
        assert found is None or parse(write(OF, *found), OF, 20) == found


def test_forty_runs_take_few_bytes() -> None:
    standing = Standing(0, 1_800_000_000, Snapshot(2_000_000))
    assert len(write(OF, standing, {1_000_000 + 3 * n: 5_000 for n in range(40)})) < 200


@pytest.mark.parametrize("runs", [[0, 1], [5, 1, 0, 1], [2**63, 1], [1, 2**62]])
def test_runs_that_cannot_be_are_none_of_a_list(runs: list[int]) -> None:
    """One twice, or with a number or a position that nothing has."""
    numbers = Standing(0, 0, Snapshot(5, frozenset())).numbers()
    data = OF + b"".join(map(varint, [len(numbers), *numbers, 1, 0, *runs]))
    assert parse(base64url.encode(data).encode(), OF, 20) is None
