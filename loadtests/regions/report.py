"""What an append, a read and a delivery took, by region and pair of regions, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loadtests.regions.residents import Measured
from loadtests.survival.report import at

NEAR = 15.0  # milliseconds for a read where there is a replica, or half as much again as where Postgres is
MOST_ROUND_TRIPS = 1.5  # an append or a read takes one, and what else it needs is far less than another
MOST_OF_A_LIST = 2.5  # right after a run began it takes one, and waits for the replica then


@dataclass(frozen=True)
class Cost:
    """What Postgres did meanwhile. `cpu`: seconds."""

    cpu: float
    commits: int
    connections: int


@dataclass(frozen=True)
class Report:
    """`round_trips` are the milliseconds from each region to Postgres and back, without anybody's work."""

    round_trips: Mapping[str, float]
    measured: Mapping[str, Measured]
    cost: Cost
    carried: int
    dropped: int
    replicas: frozenset[str] = frozenset()  # regions that have one

    @property
    def far(self) -> list[str]:
        """Those for whom a round trip is what matters."""
        return [region for region, milliseconds in self.round_trips.items() if milliseconds > 10]

    def faults(self) -> Iterator[str]:
        """Where more than one round trip was needed."""
        for region in self.far:
            measured = self.measured[region]
            far = [("an append", measured.appends)]
            if region in self.replicas:
                beside = next(iter(self.measured.values()))
                for what, values, others in [
                    ("a read", measured.reads, beside.reads),
                    *((what, values, beside.quiet.get(what, ())) for what, values in measured.quiet.items()),
                ]:
                    if at(values, 0.5) > max(NEAR, 1.5 * at(others, 0.5)):
                        yield f"{what} in {region} took {at(values, 0.5):.0f} ms beside a replica"
                count = at(measured.lists, 0.5) / self.round_trips[region]
                if count > MOST_OF_A_LIST:
                    yield f"a list after a run began in {region} took {count:.1f} round trips to Postgres"
            else:
                far.append(("a read", measured.reads))
            for what, values in far:
                count = at(values, 0.5) / self.round_trips[region]
                if count > MOST_ROUND_TRIPS:
                    yield f"{what} in {region} took {count:.1f} round trips to Postgres"

    def text(self) -> str:
        tables = [self._regions(), self._reads(), self._deliveries()]
        return "\n\n".join([*map(_table, tables), "\n".join(self._costs())])

    def _regions(self) -> Iterator[Sequence[str]]:
        yield "region", "round trip", "append p50", "p99", "round trips", "read p50", "p99", "round trips", \
            "first append", "first read"  # fmt: skip
        for region, measured in self.measured.items():
            row = [region, f"{self.round_trips[region]:.1f} ms"]
            for values in (measured.appends, measured.reads):
                trips = f"{at(values, 0.5) / self.round_trips[region]:.2f}" if region in self.far else "–"
                row += [f"{at(values, 0.5):.1f} ms", f"{at(values, 0.99):.0f} ms", trips]
            yield [*row, f"{measured.first_append:.0f} ms", f"{measured.first_read:.0f} ms"]

    def _reads(self) -> Iterator[Sequence[str]]:
        """Of runs that nobody follows there."""
        names = list(next(iter(self.measured.values())).quiet)
        yield "region", "replica", *(f"{name}, p50 (p99)" for name in names), "list after a run began"
        for region, measured in self.measured.items():
            times = [*(measured.quiet[name] for name in names), measured.lists]
            row = (f"{at(values, 0.5):.1f} ms ({at(values, 0.99):.0f})" for values in times)
            yield region, "yes" if region in self.replicas else "no", *row

    def _deliveries(self) -> Iterator[Sequence[str]]:
        yield ["written in \\ read in, p50 (p99)", *self.measured]
        for source in self.measured:
            times = [measured.deliveries[source] for measured in self.measured.values()]
            yield [source, *(f"{at(values, 0.5):.0f} ms ({at(values, 0.99):.0f})" for values in times)]

    def _costs(self) -> Iterator[str]:
        appends = sum(len(measured.appends) for measured in self.measured.values())
        reads = sum(len(measured.reads) for measured in self.measured.values())
        events = sum(measured.events for measured in self.measured.values())
        yield f"{appends:,} appends, {reads:,} reads, {events:,} events delivered, each run whole to each reader"
        yield (
            f"Postgres: {self.cost.cpu:.2f} s of CPU, {self.cost.commits:,} transactions "
            f"({self.cost.commits / max(1, appends + reads):.2f} for each append or read), "
            f"{self.cost.connections} connections"
        )
        yield f"packets between regions: {self.carried:,}, and {self.dropped:,} lost"


def rates_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Events a second, by region and way."""
    ways = list(next(iter(rows.values())))
    first = next(iter(rows.values()))

    def lines() -> Iterator[Sequence[str]]:
        yield ["events a second", *ways]
        for region, rates in rows.items():
            yield [region, *(f"{rates[way]:,.0f} ({rates[way] / first[way]:.2f} ×)" for way in ways)]

    return _table(lines())


def _table(rows: Iterator[Sequence[str]]) -> str:
    lines = list(rows)
    head, *body = [f"| {' | '.join(row)} |" for row in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])
