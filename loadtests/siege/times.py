"""How long honest requests have taken, and in which part of the siege. Pure: no sockets, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from loadtests.survival.report import at

Span = tuple[float, float]  # from when to when, by the monotonic clock


@dataclass
class Times:
    """Seconds by kind of request, each with the moment when it was over."""

    kinds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, kind: str, began: float, ended: float) -> None:
        self.kinds.setdefault(kind, []).append((ended, ended - began))

    def within(self, kind: str, spans: Sequence[Span]) -> list[float]:
        """Those that began in one of these spans, whenever they ended."""
        return [
            seconds
            for ended, seconds in self.kinds.get(kind, ())
            if any(begin <= ended - seconds <= end for begin, end in spans)
        ]


Answer = tuple[float, float]  # when, and the seconds that a loop computed between the request and that


def answers(text: str) -> Iterable[Answer]:
    """What a probe has written."""
    for line in text.splitlines():
        ended, cpu = line.split()
        yield float(ended), float(cpu)


def computed(found: Iterable[Answer], spans: Sequence[Span]) -> tuple[float, float]:
    """The seconds that the loop computed until an answer within these spans: p50, p99."""
    values = [cpu for ended, cpu in found if any(begin <= ended <= end for begin, end in spans)]
    return at(values, 0.5), at(values, 0.99)


@dataclass(frozen=True)
class Turn:
    """A long turn of a Machine's loop: when it ended, its seconds, those that it computed for, where it was seen."""

    at: float
    seconds: float
    cpu: float
    place: str


def turns(text: str) -> Iterable[Turn]:
    """What a probe has written."""
    for line in text.splitlines():
        ended, seconds, cpu, *place = line.split(" ", 3)
        yield Turn(float(ended), float(seconds), float(cpu), place[0] if place else "")


def longest(found: Iterable[Turn], spans: Sequence[Span]) -> Turn:
    """The turn within these spans that computed longest."""
    inside = [turn for turn in found if any(begin <= turn.at <= end for begin, end in spans)]
    return max(inside, key=lambda turn: turn.cpu, default=Turn(0, 0, 0, ""))


@dataclass(frozen=True)
class Compared:
    """One kind of request, in peace, beside who takes the attackers' CPU, and under siege: how many, p50, p99 in s."""

    peace: tuple[int, float, float]
    burnt: tuple[int, float, float]
    siege: tuple[int, float, float]

    @property
    def ratio(self) -> float:
        """Of the p99, to that beside a burner: what attacks cost more than their CPU does."""
        return self._to(self.burnt)

    @property
    def to_peace(self) -> float:
        """Of the p99, to that of an idle machine."""
        return self._to(self.peace)

    def _to(self, other: tuple[int, float, float]) -> float:
        """0 where there is nothing to compare."""
        return self.siege[2] / other[2] if other[2] else 0.0


def compare(
    times: Times, peace: Sequence[Span], burnt: Sequence[Span], siege: Sequence[Span]
) -> Mapping[str, Compared]:
    def of(kind: str, spans: Sequence[Span]) -> tuple[int, float, float]:
        values = times.within(kind, spans)
        return len(values), at(values, 0.5), at(values, 0.99)

    return {kind: Compared(of(kind, peace), of(kind, burnt), of(kind, siege)) for kind in sorted(times.kinds)}
