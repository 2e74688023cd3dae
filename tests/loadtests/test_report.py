"""What was measured, held against the goals and put into tables."""

from __future__ import annotations

import json

import pytest

from loadtests.bench import goals, report
from loadtests.bench.goals import Goal
from loadtests.bench.results import Results, Sample
from loadtests.bench.runner import SCENARIOS


def results(*samples: tuple[str, str, int, float], value: str = "us") -> Results:
    return Results([Sample(scenario, peer, number, {value: given}) for scenario, peer, number, given in samples])


@pytest.fixture
def fan(monkeypatch: pytest.MonkeyPatch) -> Goal:
    goal = Goal("CPU", "fanout", "us", "µs", ("floor",), "<=", 1.2)
    monkeypatch.setattr(goals, "GOALS", (goal,))
    return goal


def test_a_goal_is_reached_by_the_median_of_the_rounds_ratios(fan: Goal) -> None:
    (row,) = goals.rows(
        results(
            ("fanout", "gateway", 1, 6.0),
            ("fanout", "floor", 1, 5.0),
            ("fanout", "gateway", 2, 11.0),
            ("fanout", "floor", 2, 10.0),
            ("fanout", "gateway", 3, 9.0),
            ("fanout", "floor", 3, 5.0),
        )
    )
    assert row.goal == fan
    assert (row.compared.low, row.compared.median, row.compared.high) == (1.1, 1.2, 1.8)
    assert row.reached


def test_a_goal_without_its_peer_is_left_out(fan: Goal) -> None:
    assert list(goals.rows(results(("fanout", "gateway", 1, 6.0)))) == []
    assert list(goals.rows(results(("fanout", "floor", 1, 6.0)))) == []


def test_peers_that_stand_together_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goals, "GOALS", (Goal("late", "cross", "us", "ms", ("notify", "floor"), "<=", 1.3),))
    measured = results(("cross", "gateway", 1, 6.0), ("cross", "notify", 1, 2.0), ("cross", "floor", 1, 3.0))
    (row,) = goals.rows(measured)
    assert row.theirs is not None and row.theirs.median == 5.0
    assert row.compared.median == 1.2


def test_a_goal_with_nobody_beside_is_held_to_the_value_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goals, "GOALS", (Goal("memory", "fanout", "us", "MB", (), "<=", 100),))
    (row,) = goals.rows(results(("fanout", "gateway", 1, 101.0)))
    assert row.theirs is None and row.compared.median == 101.0
    assert not row.reached


def test_every_goal_is_about_a_scenario_and_peers_that_there_are() -> None:
    for goal in goals.GOALS:
        assert {goals.OURS, *goal.beside} <= set(SCENARIOS[goal.scenario].peers), goal


def test_a_table_of_text_has_its_columns_under_each_other() -> None:
    assert report.text([("a", "bbb"), ("cc", "d")]) == "a   bbb\ncc  d"


def test_a_table_of_markdown_has_a_line_below_its_head() -> None:
    assert report.markdown([("a", "b"), ("c", "d")]) == "| a | b |\n| --- | --- |\n| c | d |"


def test_numbers_have_three_figures_and_their_thousands() -> None:
    assert [report.number(value) for value in (6.4321, 0.5, 27_004.4, 0)] == ["6.43", "0.5", "27,004", "0"]


def test_the_report_shows_goals_scenarios_and_what_was_left_out(fan: Goal) -> None:
    measured = results(("fanout", "gateway", 1, 6.0), ("fanout", "floor", 1, 5.0))
    measured.notes.append("Nchan is left out")
    assert report.render(measured, {"floor": "the floor"}, report.text) == (
        "what  gateway  beside     its value  ratio  goal     reached\n"
        "CPU   6 µs     the floor  5 µs       1.2    ≤ 1.2 ×  yes\n\n"
        "fanout     us\n"
        "gateway    6\n"
        "the floor  5\n\n"
        "- Nchan is left out"
    )


def test_the_json_holds_every_sample_and_the_conditions(fan: Goal) -> None:
    measured = results(("fanout", "gateway", 1, 6.0), ("fanout", "floor", 1, 5.0))
    written = json.loads(json.dumps(report.as_json(measured, {"date": "2026-11-23"})))
    assert written["date"] == "2026-11-23"
    assert written["samples"][0] == {"scenario": "fanout", "peer": "gateway", "round": 1, "values": {"us": 6.0}}
    assert written["goals"][0]["reached"] is True
