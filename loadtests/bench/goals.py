"""The table: what the gateway is to reach beside whom, and whether it has. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from loadtests.bench.results import Results
from loadtests.bench.stats import Summary, ratios

OURS = "gateway"


@dataclass(frozen=True)
class Goal:
    """One comparison. `beside`: the sum of these peers' values; none: the value itself is held to the bound."""

    what: str
    scenario: str
    value: str
    unit: str
    beside: tuple[str, ...]
    sign: Literal["<=", ">="]
    bound: float


@dataclass(frozen=True)
class Row:
    """A goal with what was measured. `compared` is the ratio, or the value itself where there is nobody beside."""

    goal: Goal
    ours: Summary
    theirs: Summary | None
    compared: Summary

    @property
    def reached(self) -> bool:
        if self.goal.sign == "<=":
            return self.compared.median <= self.goal.bound
        return self.compared.median >= self.goal.bound


FAN = "CPU per SSE delivery, readers of one run"
MANY = "CPU per delivery, many runs with one reader each, appends included"
TOGETHER = "the same, one process that writes to all of them"
MEMORY = "memory per idle SSE reader"
BATCHES = "durable events per second in POSTs of 100"
ALONE = "append acknowledged at concurrency 1, p50"
POSTS = "one-event POSTs acknowledged per second, {} connections"
CATCH = "catch-up, MB/s, {}"
CROSS = "append on Machine A → frame at {} on B, p50"


def _ahead(peer: str) -> Iterator[Goal]:
    """In every row, of what keeps an event as surely: what is acknowledged is on disk."""
    yield Goal(FAN, "fanout", "us", "µs", (peer,), "<=", 1)
    yield Goal(f"{MANY}, the store's too", "many", "all_us", "µs", (peer,), "<=", 1)
    yield Goal(MEMORY, "memory", "bytes", "B", (peer,), "<=", 1)
    for connections in (64, 256):
        yield Goal(POSTS.format(connections), f"posts{connections}", "per_s", "/s", (peer,), ">=", 1)
    yield Goal(BATCHES, "batch100", "per_s", "/s", (peer,), ">=", 1)
    yield Goal(ALONE, "concurrency1", "p50_ms", "ms", (peer,), "<=", 1)
    for count in (1, 100, 1_000):
        yield Goal(CROSS.format(_readers(count)), "cross", f"p50_ms_{count}", "ms", (peer,), "<=", 1)
    for value, who in (("mb_s_1", "1 reader"), ("mb_s_many", "many readers at once")):
        yield Goal(CATCH.format(who), "catchup", value, "MB/s", (peer,), ">=", 1)


def _readers(count: int) -> str:
    return f"{count} reader{'s' if count > 1 else ''}"


GOALS = (
    Goal(FAN, "fanout", "us", "µs", ("floor",), "<=", 1.2),
    Goal(FAN, "fanout", "us", "µs", ("nchan",), "<=", 0.9),
    Goal(FAN, "fanout", "us", "µs", ("fastapi",), "<=", 0.4),
    Goal(FAN, "fanout", "us", "µs", ("reference",), "<=", 0.3),
    Goal(MANY, "many", "us", "µs", ("floor",), "<=", 2),
    Goal(MANY, "many", "us", "µs", ("nchan",), "<=", 1.5),
    Goal(TOGETHER, "together", "us", "µs", ("gateway-posts",), "<=", 0.5),
    Goal(TOGETHER + ", the part of the rate that is kept", "together", "kept_up", "", (), ">=", 0.99),
    Goal(MEMORY, "memory", "bytes", "B", ("reference",), "<=", 0.7),
    Goal(MEMORY, "memory", "bytes", "B", ("nchan",), "<=", 1.1),
    *(
        Goal(POSTS.format(connections), f"posts{connections}", "per_s", "/s", (peer,), ">=", bound)
        for connections in (64, 256)
        for peer, bound in (("bare-asgi", 0.55), ("flue", 10.0), ("reference", 0.65))
    ),
    Goal(BATCHES, "batch100", "per_s", "/s", ("insert",), ">=", 0.8),
    Goal(ALONE, "concurrency1", "p50_ms", "ms", ("insert",), "<=", 1.4),
    *(
        Goal(
            CROSS.format(_readers(count)),
            "cross", f"p50_ms_{count}", "ms", ("notify", "floor"), "<=", 1.3,
        )
        for count in (1, 100, 1_000)
    ),
    Goal(CATCH.format("1 reader"), "catchup", "mb_s_1", "MB/s", ("reference-files",), ">=", 1.8),
    Goal(CATCH.format("many readers at once"), "catchup", "mb_s_many", "MB/s", ("reference-files",), ">=", 5),
    Goal("catch-up, peak memory", "catchup", "peak_mb", "MB", (), "<=", 100),
    Goal("reconnect storm: caught up, p99", "storm", "p99_s", "s", (), "<=", 3),
    Goal("reconnect storm: reads of the log per run", "storm", "reads_per_run", "", (), "<=", 5),
    Goal("p99 of fast readers beside slow ones, to that without", "slow", "p99_times", "", (), "<=", 1.2),
    Goal("memory that slow readers take, all together", "slow", "grown_mb", "MB", (), "<=", 10),
    *(goal for peer in ("redis", "nats-always") for goal in _ahead(peer)),
    Goal("killed in the middle: lost, doubled, missed, repeated", "killed", "wrong", "", (), "<=", 0),
    Goal("news to a Machine without readers, CPU per event", "listener", "us", "µs", (), "<=", 10),
)  # fmt: skip


def compared(scenario: str) -> set[str]:
    """The peers that some goal needs in this scenario."""
    return {OURS, *(peer for goal in GOALS if goal.scenario == scenario for peer in goal.beside)}


def rows(results: Results) -> Iterator[Row]:
    """The goals for which there is everything that they need."""
    for goal in GOALS:
        ours = results.rounds(goal.scenario, OURS, goal.value)
        theirs = results.total(goal.scenario, goal.beside, goal.value)
        compared = ratios(ours, theirs) if goal.beside else list(ours.values())
        if compared:
            beside = Summary.of(theirs.values()) if theirs else None
            yield Row(goal, Summary.of(ours.values()), beside, Summary.of(compared))
