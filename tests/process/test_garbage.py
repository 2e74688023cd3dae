"""Looks for rings of references: what one looks at, and when everything is looked at."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway.process.garbage import CALM, ENOUGH, EVERY, TOO_MANY, TWICE, YOUNG, Garbage


class Ring:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """Afterwards, what was there before, as tests/conftest.py has it."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def garbage() -> Iterator[Garbage]:
    garbage = Garbage(period=0.1)
    garbage.begin(0.0)
    try:
        yield garbage
    finally:
        garbage.end()


def test_what_lives_is_looked_at_no_third_time(garbage: Garbage) -> None:
    sizes: list[int] = []

    def size(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            sizes.append(sum(len(gc.get_objects(generation)) for generation in range(info["generation"] + 1)))

    gc.callbacks.append(size)
    try:
        kept = [[number] for number in range(20 * YOUNG)]
    finally:
        gc.callbacks.remove(size)
    assert len(sizes) >= 15 and garbage.frozen >= 3
    assert max(sizes) < (TWICE + 3) * YOUNG <= 8_000, "and not as many as there are"
    assert len(kept) == 20 * YOUNG


def test_a_ring_that_was_frozen_is_found_in_the_end(garbage: Garbage) -> None:
    ring = Ring()
    found = weakref.ref(ring)
    gc.collect(1)
    del ring
    gc.collect()
    assert found() is not None, "no look goes over what was frozen"
    garbage.frozen = ENOUGH
    garbage.tick(EVERY + 1)
    for tick in range(CALM):
        assert found() is not None
        garbage.tick(EVERY + 1 + (tick + 1) * 0.1)
    assert found() is None


@pytest.mark.parametrize(
    ("frozen", "late", "looks"),
    [(ENOUGH - 1, 0.0, False), (ENOUGH, 0.0, True), (ENOUGH, 0.5, False), (TOO_MANY, 0.5, True)],
    ids=["hardly anything is new", "a calm loop", "a busy loop", "a busy loop for very long"],
)
def test_everything_is_looked_at_when_there_is_time(garbage: Garbage, frozen: int, late: float, looks: bool) -> None:
    now = EVERY
    garbage.frozen = frozen
    for _ in range(CALM + 2):
        now += 0.1 + late
        garbage.tick(now)
    assert (garbage.frozen == 0) == looks


def test_the_collector_is_afterwards_as_it_was() -> None:
    before, callbacks = gc.get_threshold(), list(gc.callbacks)
    garbage = Garbage()
    garbage.begin(0.0)
    assert gc.get_threshold() != before
    garbage.end()
    assert (gc.get_threshold(), gc.callbacks) == (before, callbacks)
