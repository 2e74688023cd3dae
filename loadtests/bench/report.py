"""Results as people and programs read them: the goals, then everything, as text, Markdown and JSON. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from loadtests.bench.goals import Row, rows
from loadtests.bench.results import Results
from loadtests.bench.stats import Summary

HEAD = ("what", "gateway", "beside", "its value", "ratio", "goal", "reached")


def number(value: float) -> str:
    """Three figures, and thousands in full."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(summary: Summary) -> str:
    """`6.4 (6.2–6.9)`, or the number alone when there was one round."""
    if summary.rounds == 1:
        return number(summary.median)
    return f"{number(summary.median)} ({number(summary.low)}–{number(summary.high)})"


def goal_lines(results: Results, titles: dict[str, str]) -> list[Sequence[str]]:
    return [HEAD, *(_goal_line(row, titles) for row in rows(results))]


def _goal_line(row: Row, titles: dict[str, str]) -> Sequence[str]:
    goal = row.goal
    sign = "≤" if goal.sign == "<=" else "≥"
    times = " ×" if goal.beside else f" {goal.unit}".rstrip()
    return (
        goal.what,
        f"{spread(row.ours)} {goal.unit}".strip(),
        " + ".join(titles.get(peer, peer) for peer in goal.beside) or "–",
        f"{spread(row.theirs)} {goal.unit}".strip() if row.theirs else "–",
        spread(row.compared) if goal.beside else "–",
        f"{sign} {goal.bound:g}{times}",
        "yes" if row.reached else "no",
    )


def scenario_lines(results: Results, scenario: str, titles: dict[str, str]) -> list[Sequence[str]]:
    """All values of all peers in one scenario."""
    names = results.values(scenario)
    lines: list[Sequence[str]] = [(scenario, *names)]
    for peer in results.peers(scenario):
        summaries = (results.summary(scenario, peer, name) for name in names)
        lines.append((titles.get(peer, peer), *("–" if found is None else spread(found) for found in summaries)))
    return lines


def text(lines: Iterable[Sequence[str]]) -> str:
    """Columns, aligned."""
    table = [[str(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in table)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def markdown(lines: Iterable[Sequence[str]]) -> str:
    head, *rest = lines
    rows_ = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows_)


def render(results: Results, titles: dict[str, str], table: Callable[[Iterable[Sequence[str]]], str]) -> str:
    """Everything that there is to see, goals first."""
    parts = [table(scenario_lines(results, scenario, titles)) for scenario in results.scenarios()]
    goals = goal_lines(results, titles)
    if len(goals) > 1:
        parts.insert(0, table(goals))
    if results.notes:
        parts.append("\n".join(f"- {note}" for note in results.notes))
    return "\n\n".join(parts)


def as_json(results: Results, about: dict[str, Any]) -> dict[str, Any]:
    """For the next run to be compared with."""
    return {
        **about,
        "goals": [
            {
                "what": row.goal.what,
                "beside": row.goal.beside,
                "ours": row.ours.median,
                "theirs": row.theirs.median if row.theirs else None,
                "compared": row.compared.median,
                "low": row.compared.low,
                "high": row.compared.high,
                "goal": f"{row.goal.sign} {row.goal.bound:g}",
                "reached": row.reached,
            }
            for row in rows(results)
        ],
        "notes": results.notes,
        "samples": results.as_json(),
    }
