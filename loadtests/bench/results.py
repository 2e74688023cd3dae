"""What was measured: a value for each scenario, peer, round and name; and what could not be. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtests.bench.stats import Summary


@dataclass(frozen=True)
class Sample:
    """One scenario with one peer, once."""

    scenario: str
    peer: str
    round: int
    values: dict[str, float]


@dataclass
class Results:
    """Everything of one run of the bench."""

    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: int = 0  # of peers that are there, and could not be measured

    def rounds(self, scenario: str, peer: str, value: str) -> dict[int, float]:
        """A value by round."""
        return {
            sample.round: sample.values[value]
            for sample in self.samples
            if sample.scenario == scenario and sample.peer == peer and value in sample.values
        }

    def total(self, scenario: str, peers: Iterable[str], value: str) -> dict[int, float]:
        """The sum over these peers, of the rounds that all of them have."""
        each = [self.rounds(scenario, peer, value) for peer in peers]
        common = set.intersection(*(set(rounds) for rounds in each)) if each else set()
        return {number: sum(rounds[number] for rounds in each) for number in sorted(common)}

    def summary(self, scenario: str, peer: str, value: str) -> Summary | None:
        rounds = self.rounds(scenario, peer, value)
        return Summary.of(rounds.values()) if rounds else None

    def peers(self, scenario: str) -> list[str]:
        """Those with a sample, in the order in which they came."""
        return list(dict.fromkeys(sample.peer for sample in self.samples if sample.scenario == scenario))

    def scenarios(self) -> list[str]:
        return list(dict.fromkeys(sample.scenario for sample in self.samples))

    def values(self, scenario: str) -> list[str]:
        return list(
            dict.fromkeys(name for sample in self.samples if sample.scenario == scenario for name in sample.values)
        )

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(sample) for sample in self.samples]
