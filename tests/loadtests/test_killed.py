"""What the bench says was lost, doubled, missed or repeated when processes were killed."""

from __future__ import annotations

import pytest

from loadtests.bench.scenarios.killed import Account

WHOLE = {"acknowledged": 3, "lost": 0, "stored_twice": 0, "missed": 0, "repeated": 0, "taken_back": 0}


def test_a_run_that_all_agree_about_has_nothing_wrong() -> None:
    assert Account(0, [1, 2, 3], [1, 2, 3], [1, 2, 3]).tally() == WHOLE


@pytest.mark.parametrize(
    ("seen", "stored", "wrong"),
    [
        ([1, 2], [1, 2], {"lost": 1}),
        ([1, 2, 2, 3], [1, 2, 2, 3], {"stored_twice": 1}),
        ([1, 3], [1, 2, 3], {"missed": 1}),
        ([1, 2, 3], [1, 2, 2, 3], {"stored_twice": 1, "missed": 1}),
        ([1, 2, 2, 3], [1, 2, 3], {"repeated": 1}),
        ([1, 2, 3], [1, 2], {"lost": 1, "taken_back": 1}),
        ([1, 2, 3, 4, 4], [1, 2, 3], {"taken_back": 1, "repeated": 1}),
    ],
)
def test_what_is_wrong_is_counted_by_its_kind(seen: list[int], stored: list[int], wrong: dict[str, int]) -> None:
    assert Account(0, [1, 2, 3], seen, stored).tally() == WHOLE | wrong


def test_an_event_stored_without_an_answer_is_no_fault() -> None:
    assert Account(0, [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4]).tally() == WHOLE
