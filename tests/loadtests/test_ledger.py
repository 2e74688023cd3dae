"""The account of a run: what is wrong is found, named and counted, and what is right is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from loadtests.survival import ledger
from loadtests.survival.ledger import Findings, Read, Written, judge


def read(given: Sequence[int], *, ended: bool = True, early: bool = False, begin: int | None = None) -> Read:
    """A reader that was given these events one by one, from the `begin`th on."""
    places = [(f"{(begin or 0) + count:04}", count) for count in range(len(given) + 1)]
    return Read("sse", list(given), places, ended, early, begin is None)


def written(*hands: Sequence[int]) -> Written:
    return Written("/runs/1", [list(hand) for hand in hands], 4, ending=True)


def judged(log: Sequence[int], *readers: Read, by: Written | None = None) -> Findings:
    return judge(read(log), by or written([0, 1, 2, 3]), readers)


def test_a_run_that_everybody_was_given_is_right() -> None:
    assert not judged([0, 1, 2, 3], read([0, 1, 2, 3]), read([0, 1, 2, 3])).counts


@pytest.mark.parametrize(
    ("log", "kind", "count"),
    [
        ([0, 2, 3], ledger.LOST, 1),
        ([0, 1, 1, 2, 3], ledger.REPEATED, 1),
        ([0, 2, 1, 3], ledger.REORDERED, 1),
        ([0, 1, 2, 3, 4], ledger.INVENTED, 1),
        ([0, 1, 2, 3, ledger.STRANGE], ledger.INVENTED, 1),
    ],
)
def test_a_log_that_is_not_what_its_writer_was_told_is_found(log: list[int], kind: str, count: int) -> None:
    assert judged(log).counts[kind] == count


def test_who_begins_in_the_middle_is_to_be_given_all_from_there() -> None:
    whole = read([0, 1, 2, 3])
    for begin in range(5):
        assert not judged([0, 1, 2, 3], whole, read([0, 1, 2, 3][begin:], begin=begin)).counts
    assert judged([0, 1, 2, 3], read([2, 3], begin=1), whole).counts[ledger.LOST] == 1
    assert judged([0, 1, 2, 3], read([1, 3], begin=1), whole).counts[ledger.LOST] == 1
    assert judged([0, 1, 2, 3], read([1, 1, 2, 3], begin=1), whole).counts[ledger.REPEATED] == 1
    assert judged([0, 1, 2, 3], read([], begin=4, ended=False)).counts == {ledger.STUCK: 1}


def test_an_unacknowledged_event_may_be_there_once_and_not_twice() -> None:
    for log in ([0, 1, 3], [0, 1, 2, 3], [0, 1, 3, 2]):
        assert not judged(log, by=written([0, 1, 3])).counts
    assert judged([0, 1, 2, 2, 3], by=written([0, 1, 3])).counts == {ledger.REPEATED: 1}


def test_two_writers_may_interleave_and_one_may_not_be_reordered() -> None:
    assert not judged([2, 0, 3, 1], by=written([0, 1], [2, 3])).counts
    assert judged([3, 0, 2, 1], by=written([0, 1], [2, 3])).counts == {ledger.REORDERED: 1}


@pytest.mark.parametrize(
    ("reader", "kind"),
    [
        (read([0, 1, 3]), ledger.LOST),
        (read([0, 1, 1, 2, 3]), ledger.REPEATED),
        (read([0, 2, 1, 3]), ledger.REORDERED),
        (read([0, 1, 2, 7, 3]), ledger.INVENTED),
        (read([0, 1]), ledger.EARLY),
        (read([0, 1, 2, 3], early=True), ledger.EARLY),
        (read([0, 1], ended=False), ledger.STUCK),
    ],
)
def test_a_reader_with_anything_but_the_log_is_found(reader: Read, kind: str) -> None:
    assert judged([0, 1, 2, 3], read([0, 1, 2, 3]), reader).counts[kind] == 1


def test_an_unfinished_reader_has_lost_only_what_it_passed() -> None:
    assert judged([0, 1, 2, 3], read([0, 2], ended=False)).counts == {ledger.STUCK: 1, ledger.LOST: 1}


@pytest.mark.parametrize(
    "places",
    [
        [("0002", 2), ("0001", 3)],  # it went back
        [("0001", 1), ("0002", 1)],  # nothing was given, and it moved
        [("0001", 1), ("0001", 2)],  # something was given, and it stayed
        [("0001", 1), ("0003", 2)],  # a place that others came to with three events
    ],
)
def test_offsets_only_grow_and_mean_one_place_each(places: list[tuple[str, int]]) -> None:
    reader = Read("sse", [0, 1, 2, 3], [*places, ("0004", 4)], ended=True)
    assert judged([0, 1, 2, 3], reader).counts == {ledger.OFFSETS: 1}
