"""The names, kinds and words of the metrics, and that the README tells the same."""

from __future__ import annotations

import re

from gateway.counting import Histogram, together
from gateway.metrics.catalogue import METRICS, Kind, table
from tests.manual import manual


def test_the_readme_lists_the_metrics_as_they_are() -> None:
    listed = re.search(r"<!-- metrics -->\n(.*?)\n<!-- /metrics -->", manual("metrics"), re.DOTALL)
    assert listed is not None, "the manual has no <!-- metrics --> ... <!-- /metrics -->"
    assert listed[1].strip() == table()


def test_every_name_is_unique_and_valid_for_prometheus() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)


def test_a_suffix_is_that_of_the_kind_and_never_part_of_the_name() -> None:
    for metric in METRICS:
        assert not metric.name.endswith(("_total", "_info", "_count", "_sum", "_bucket")), metric.name


def test_a_time_names_its_unit_and_its_help_does_too() -> None:
    for metric in METRICS:
        if metric.name.endswith("seconds"):
            assert metric.help.startswith("Seconds") and metric.kind is Kind.HISTOGRAM, metric.name
        if metric.name.endswith("bytes"):
            assert metric.help.startswith("Bytes"), metric.name


def test_every_help_is_one_sentence() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"[A-Z0-9].*[^.]\.", metric.help) and "\n" not in metric.help, metric.name


def test_several_histograms_are_told_as_one() -> None:
    first, second = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    for histogram, value in ((first, 1.0), (first, 1.5), (second, 1.5), (second, 9.0)):
        histogram.observe(value)
    assert (together([first, second]).counts, together([first, second]).total) == ([1, 2, 1], 13.0)
