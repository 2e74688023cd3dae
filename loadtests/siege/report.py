"""What a siege has cost, as a table for people and as an exit code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.siege.attacks import TITLES
from loadtests.siege.machines import Use
from loadtests.siege.times import Compared, Turn
from loadtests.survival.clients import Seen
from loadtests.survival.ledger import KINDS, Findings

NEAR = 1.2  # times what was used before counts as back
SPARE = 32  # descriptors that happen to be open
SLOWER = 2.0  # times the p99 beside burners of the same CPU
LONG = 0.1  # seconds of a turn
NOTES = 12  # that are printed


@dataclass(frozen=True)
class State:
    """What a Machine used before the siege, at most (bytes), and after it."""

    before: Use
    most: int
    after: Use

    @property
    def back(self) -> bool:
        return (
            self.after.memory <= NEAR * self.before.memory and self.after.descriptors <= self.before.descriptors + SPARE
        )

    def __str__(self) -> str:
        before, most, after = (value / (1 << 20) for value in (self.before.memory, self.most, self.after.memory))
        open = f"{self.before.descriptors} → {self.after.descriptors}"
        return f"{before:.0f} MB, at most {most:.0f}, then {after:.0f}; descriptors {open}"


@dataclass(frozen=True)
class Report:
    """`taken`, `burnt`: processors that attackers and burners kept busy. `turns`: the longest in peace and under siege.
    `computed`: CPU of the loop from an append's arrival to its answer, p50 and p99 in s: in peace, beside burners,
    under siege. `back`: seconds until memory and descriptors were, None: never.
    """

    seconds: float
    attacks: Mapping[int, Counter[str]]
    taken: float
    burnt: float
    compared: Mapping[str, Compared]
    turns: tuple[Turn, Turn]
    computed: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    states: Sequence[State]
    back: float | None
    logs: Sequence[str]
    seen: Sequence[Seen]
    runs: int
    findings: Findings

    @property
    def held(self) -> bool:
        """Whether the log is exactly what was acknowledged, and no honest request failed for good."""
        return not self.findings.counts

    def goals(self) -> Iterator[tuple[str, bool]]:
        slower = [kind for kind, each in self.compared.items() if each.ratio > SLOWER]
        over = f" (over: {', '.join(slower)})" if slower else ""
        yield f"p99 of the honest at most {SLOWER:g} × that beside a burner{over}", not slower
        yield f"no turn of the loop over {1000 * LONG:g} ms", self.turns[1].cpu <= LONG
        yield "memory and descriptors back within 20 %", all(state.back for state in self.states)

    def rows(self) -> Iterator[tuple[str, str]]:
        """What was done, then what came of it."""
        for row, seen in sorted(self.attacks.items()):
            done = ", ".join(f"{count:,} × {what}" for what, count in sorted(seen.items()))
            yield f"row {row}: {TITLES[row]}", done or "nothing"
        yield "CPU that attackers took, and burners", f"{self.taken:.2f}, {self.burnt:.2f} of a processor"
        yield "p50; p99 of", "in peace | beside burners → under siege, to burners (to peace)"
        for kind, each in self.compared.items():
            peace, burnt, siege = (
                f"{1000 * half:.1f}; {1000 * most:.1f}" for _, half, most in (each.peace, each.burnt, each.siege)
            )
            many = ", ".join(f"{count:,}" for count, *_ in (each.peace, each.burnt, each.siege))
            yield f"  {kind}", f"{peace} | {burnt} → {siege} ms, {each.ratio:.1f} × ({each.to_peace:.1f} ×) of {many}"
        peace, burnt, siege = (f"{1000 * half:.1f}; {1000 * most:.1f}" for half, most in self.computed)
        yield "CPU of the loop until an append is answered", f"{peace} | {burnt} → {siege} ms"
        for name, turn in zip(("in peace", "under siege"), self.turns, strict=True):
            where = f" at {turn.place}" if turn.place else ""
            took = f"{1000 * turn.cpu:.0f} ms of CPU, {1000 * turn.seconds:.0f} ms in all"
            yield f"longest turn {name}", f"{took}{where}"
        for number, state in enumerate(self.states):
            yield f"Machine {number}", str(state)
        yield "back after", "never" if self.back is None else f"{self.back:.0f} s"
        yield "lines of log; tracebacks", f"{sum(log.count(chr(10)) for log in self.logs):,}; {self._tracebacks}"
        yield "runs judged", f"{self.runs:,}"
        yield (
            "events acknowledged; delivered",
            "; ".join(f"{sum(getattr(seen, what) for seen in self.seen):,}" for what in ("acknowledged", "delivered")),
        )
        yield "refusals of the honest (429, 503)", f"{sum(seen.refusals for seen in self.seen):,}"
        for kind in KINDS:
            if self.findings.counts[kind]:
                yield kind, f"{self.findings.counts[kind]:,}"
        yield "the log", "is exactly what was acknowledged" if self.held else "IS NOT WHAT IT SHOULD BE"
        for goal, reached in self.goals():
            yield f"goal: {goal}", "reached" if reached else "missed"

    @property
    def _tracebacks(self) -> int:
        return sum(log.count("Traceback (most recent call last)") for log in self.logs)

    def text(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows())

    def markdown(self) -> str:
        return "\n".join(["| what | |", "|---|---|", *(f"| {name} | {value} |" for name, value in self.rows())])

    def complaint(self) -> str:
        """What was wrong, a sentence for each; nothing when nothing was."""
        return "" if self.held else "\n- ".join(["NOT HELD:", *self.findings.notes[:NOTES]])

    def json(self) -> str:
        told: dict[str, Any] = dict(self.rows())
        return json.dumps(told | {"held": self.held, "notes": self.findings.notes}, ensure_ascii=False)
