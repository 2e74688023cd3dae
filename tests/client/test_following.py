"""`follow` by itself: a place to go on from after each event, and values of what a stream holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_gateway import BadAnswer, Following, follow, following
from run_gateway.sse import Step


class Cut(Following):
    """A run of ten events, as it comes in pieces of these sizes."""

    def __init__(self, offset: str, sizes: list[int]) -> None:
        super().__init__("http://h/runs/1", offset, None, None)
        self._sizes = sizes

    async def _steps(self) -> Any:
        at = 0 if self._offset == "-1" else int(self._offset)
        for size in self._sizes:
            until = min(10, at + size)
            yield [*range(at, until)], str(until), False
            at = until
        yield [*range(at, 10)], "10", True


sizes = st.lists(st.integers(0, 4), max_size=8)


@settings(max_examples=200)
@given(st.lists(st.tuples(sizes, st.integers(0, 6)), max_size=5), sizes)
def test_it_goes_on_after_the_last_event_that_it_gave(sittings: list[tuple[list[int], int]], last: list[int]) -> None:
    """However the events come, and however often it is left and gone on with."""

    async def read() -> list[int]:
        found: list[int] = []
        offset = "-1"
        for pieces, count in sittings:
            reader = Cut(offset, pieces)
            given: AsyncIterator[int] = reader.__aiter__()
            for _ in range(count):
                event = await anext(given, None)
                if event is not None:
                    found.append(event)
            offset = reader.offset
            await given.aclose()  # type: ignore[attr-defined]
        reader = Cut(offset, last)
        found += [event async for event in reader]
        assert (reader.closed, reader.offset) == (True, "10")
        return found

    assert asyncio.run(read()) == [*range(10)]


class CutText(Following):
    """A text of ten letters, as it comes in pieces of these sizes."""

    def __init__(self, offset: str, sizes: list[int]) -> None:
        super().__init__("http://h/runs/1", offset, None, None)
        self._sizes = sizes

    async def _steps(self) -> Any:
        at = 0 if self._offset == "-1" else int(self._offset)
        for size in (*self._sizes, 10):
            until = min(10, at + size)
            step = Step((TEXT[at:until],) if until > at else (), str(until), closed=until == 10)
            yield following._events(step, False, False), step.offset, step.closed
            at = until


TEXT = "abcdefghij"


@settings(max_examples=200)
@given(st.lists(st.tuples(sizes, st.integers(0, 6)), max_size=5), sizes)
def test_a_text_goes_on_behind_the_last_piece(sittings: list[tuple[list[int], int]], last: list[int]) -> None:
    """Its pieces are cut elsewhere each time."""

    async def read() -> str:
        found, offset = "", "-1"
        for pieces, count in sittings:
            reader = CutText(offset, pieces)
            given: AsyncIterator[str] = reader.__aiter__()
            for _ in range(count):
                found += await anext(given, "")
            offset = reader.offset
            await given.aclose()  # type: ignore[attr-defined]
        return found + "".join([piece async for piece in CutText(offset, last)])

    assert asyncio.run(read()) == TEXT


def test_data_is_what_the_stream_holds() -> None:
    step = Step(('[1,"a"]', "[{}]"), "2")
    assert following._events(step, True, False) == [1, "a", {}]
    assert following._events(step, False, False) == ['[1,"a"][{}]']
    assert following._events(Step(("AAE=",), "1"), False, True) == [b"\0\1"]
    with pytest.raises(BadAnswer):
        following._events(Step(("[1",), "1"), True, False)


@pytest.mark.parametrize("offset", [0, None, b"-1"])
def test_an_offset_is_a_text(offset: Any) -> None:
    with pytest.raises(TypeError):
        follow("http://h/runs/1", offset=offset)
    with pytest.raises(ValueError, match="http://"):
        follow("h/runs/1")
