"""Histograms as the C clients print them, medians with ranges, and ratios of rounds."""

from __future__ import annotations

import pytest

from loadtests.bench.stats import Histogram, NothingMeasured, Summary, ratios


def test_a_quantile_is_the_least_value_that_covers_its_share() -> None:
    histogram = Histogram.parse([[3000, 1], [1000, 98], [2000, 1]])
    assert histogram.count == 100
    assert histogram.quantile(0.5) == 1000
    assert histogram.quantile(0.99) == 2000
    assert histogram.quantile(1) == 3000
    assert histogram.milliseconds(0.99) == 2.0


def test_a_histogram_of_one_value_has_it_at_every_quantile() -> None:
    histogram = Histogram.parse([[7, 1]])
    assert [histogram.quantile(q) for q in (0, 0.5, 1)] == [7, 7, 7]


def test_values_that_never_came_do_not_count() -> None:
    assert Histogram.parse([[1, 0], [2, 1]]).pairs == ((2, 1),)


def test_nothing_measured_is_said_and_not_zero() -> None:
    with pytest.raises(NothingMeasured):
        Histogram.parse([]).quantile(0.5)
    with pytest.raises(NothingMeasured):
        Summary.of([])


def test_a_summary_has_the_median_and_the_range() -> None:
    assert Summary.of([5.0, 1.0, 2.0]) == Summary(2.0, 1.0, 5.0, 3)


def test_ratios_are_taken_round_by_round_where_both_have_one() -> None:
    assert ratios({1: 2.0, 2: 6.0, 3: 9.0}, {2: 3.0, 1: 1.0, 4: 1.0}) == [2.0, 2.0]


def test_nothing_is_divided_by_zero() -> None:
    assert ratios({1: 2.0}, {1: 0.0}) == []
