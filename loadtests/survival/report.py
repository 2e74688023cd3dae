"""What a run of the harness has found, as a table for people and as an exit code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtests.survival.clients import Seen
from loadtests.survival.ledger import KINDS, Findings
from loadtests.survival.soak import Growth

NOTES = 12  # that are printed


@dataclass(frozen=True)
class Report:
    """`left_out`: faults that could not be here, and why. `exits`: seconds from a signal to a Machine's own end.
    `takeovers`: when another database server had come, by the clock of `seen.gaps`; `probes`: those of them that
    lost an event on purpose.
    """

    seed: int
    seconds: float
    faults: Counter[str]
    left_out: Mapping[str, str]
    runs: int
    readers: int
    seen: Seen
    chores: Mapping[str, int]
    findings: Findings
    exits: Sequence[float]
    growth: Growth | None
    takeovers: Sequence[float] = ()
    probes: int = 0

    @property
    def survived(self) -> bool:
        return not self.findings.counts

    def rows(self) -> Iterator[tuple[str, str]]:
        """What was done, then what came of it."""
        yield "seed", str(self.seed)
        yield "seconds", f"{self.seconds:.0f}"
        for kind, count in sorted(self.faults.items()):
            yield f"fault: {kind}", f"{count:,}"
        for kind, why in sorted(self.left_out.items()):
            yield f"left out: {kind}", why
        yield "runs", f"{self.runs:,}"
        yield "of these ended for a dead writer; cancelled", f"{self.seen.deaths:,}; {self.seen.cancels:,}"
        if self.seen.told:
            yield (
                "readers told of a lost future; writers; events of these",
                ", ".join(f"{count:,}" for count in (self.seen.told, self.seen.rewound, self.seen.forgotten)),
            )
        if self.probes:
            yield "takeovers that were certain to lose an event", f"{self.probes:,}"
        if self.seen.flue:
            yield "of these Flue's; ended for a dead server", f"{self.seen.flue:,}; {self.seen.abandoned:,}"
        if self.seen.relayed:
            counts = (self.seen.relayed, self.seen.rejoined, self.seen.lost)
            yield "of these relayed; asked for the rest; lost", "; ".join(f"{count:,}" for count in counts)
        if self.seen.talks:
            counts = (self.seen.talks, self.seen.taken, self.seen.owners)
            yield "conversations; messages taken; owners one after the other", "; ".join(f"{n:,}" for n in counts)
            yield (
                "from a message to its answer, p99; longest",
                "; ".join(f"{at(self.seen.waits, quantile):.2f} s" for quantile in (0.99, 1)),
            )
        for chore, rounds in self.chores.items():
            yield f"rounds of {chore}", f"{rounds:,}"
        yield "readers", f"{self.readers:,}"
        yield "events acknowledged", f"{self.seen.acknowledged:,}"
        yield "events not acknowledged; of these in the log", f"{self.seen.unanswered:,}; {self.seen.landed:,}"
        yield "events delivered", f"{self.seen.delivered:,}"
        yield "responses broken off", f"{self.seen.cuts:,}"
        yield "refusals (429, 503)", f"{self.seen.refusals:,}"
        for kind in KINDS:
            yield kind, f"{self.findings.counts[kind]:,}"
        gaps = [seconds for _, seconds in self.seen.gaps]
        yield "gap in a live reader's view, p50", f"{1000 * at(gaps, 0.50):.0f} ms"
        yield "gap in a live reader's view, p99", f"{1000 * at(gaps, 0.99):.0f} ms"
        yield "gap in a live reader's view, longest", f"{1000 * at(gaps, 1):.0f} ms"
        if self.takeovers:
            over = silences(self.seen.gaps, self.takeovers)
            spans = ", ".join(f"{1000 * at(over, quantile):.0f} ms" for quantile in (0.50, 0.99, 1))
            yield f"gap over one of {len(self.takeovers)} takeovers: p50, p99, longest of {len(over)}", spans
        yield "from acknowledged to a live reader, p99", f"{1000 * at(self.seen.late, 0.99):.0f} ms"
        yield "from acknowledged to a live reader, longest", f"{1000 * at(self.seen.late, 1):.0f} ms"
        if self.exits:
            yield "from SIGTERM or SIGINT to exit, longest", f"{max(self.exits):.2f} s"
        if self.growth is not None:
            yield "a Machine that lived throughout", str(self.growth)

    def text(self) -> str:
        """The table."""
        width = max(len(name) for name, _ in self.rows())
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows())

    def markdown(self) -> str:
        return "\n".join(["| what | |", "|---|---|", *(f"| {name} | {value} |" for name, value in self.rows())])

    def complaint(self) -> str:
        """What was wrong, a sentence for each; nothing when nothing was."""
        return "" if self.survived else "\n- ".join(["NOT SURVIVED:", *self.findings.notes[:NOTES]])

    def json(self) -> str:
        """The same for programs."""
        told: dict[str, Any] = dict(self.rows())
        return json.dumps(told | {"survived": self.survived, "notes": self.findings.notes}, ensure_ascii=False)


def silences(gaps: Sequence[tuple[float, float]], moments: Sequence[float]) -> list[float]:
    """The lengths of those gaps that one of these moments lies in."""
    return [seconds for began, seconds in gaps if any(began <= moment <= began + seconds for moment in moments)]


def at(values: Sequence[float], quantile: float) -> float:
    """The value below which such a share of them lies; 0 where there is none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]
