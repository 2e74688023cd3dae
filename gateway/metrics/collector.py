"""Turns the plain numbers of the rooms into Prometheus's families and text, when a scrape asks for them.

Families travel between workers as JSON, by `dump` and `load`. Each worker's samples are labelled with its number, so
that a counter belongs to one process, and does not go back because another worker was asked.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, exposition
from prometheus_client import Metric as Family
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.counting import Histogram
from gateway.metrics.catalogue import METRICS, PREFIX, Kind, Metric, Parts, Value

_END = b"# EOF\n"  # of OpenMetrics
_PROCESS = ProcessCollector(registry=None)  # memory, CPU, descriptors, from /proc; nothing elsewhere


class Machine(Collector):
    """The metrics of this process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            yield _family(metric, metric.read(self._parts))
        yield from _PROCESS.collect()


class _Merged(Collector):
    """Families of several workers, each of which is merged when its turn has come."""

    def __init__(self, families: Collection[Sequence[tuple[str, Family]]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        return map(_merged, self._families)


class _Given(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterable[Family]:
        return self._families


def _family(metric: Metric, value: Value) -> Family:
    family = Family(PREFIX + metric.name, metric.help, metric.kind.value)
    name = metric.full_name
    if isinstance(value, Histogram):
        bounds = [*map(floatToGoString, value.bounds), "+Inf"]
        for bound, count in zip(bounds, accumulate(value.counts), strict=True):
            family.add_sample(f"{name}_bucket", {"le": bound}, count)
        family.add_sample(f"{name}_sum", {}, value.total)
        family.add_sample(f"{name}_count", {}, sum(value.counts))
    elif metric.kind is Kind.INFO:
        assert isinstance(value, Mapping), metric.name
        family.add_sample(name, {label: str(each) for label, each in value.items()}, 1)
    elif isinstance(value, Mapping):
        assert metric.label is not None, metric.name
        for label, each in sorted(value.items()):
            family.add_sample(name, {metric.label: label}, float(each))
    elif value is not None:
        family.add_sample(name, {}, float(value))
    return family


def dump(collector: Collector) -> bytes:
    """Its families as one line of JSON."""
    return orjson.dumps(
        [
            [family.name, family.documentation, family.type, [sample[:3] for sample in family.samples]]
            for family in collector.collect()
        ]
    )


def load(data: bytes) -> list[Family]:
    """The families that `dump` has written. Raises ValueError for anything else."""
    families: list[Family] = []
    document: Any = orjson.loads(data)
    for name, documentation, kind, samples in document:
        family = Family(name, documentation, kind)
        for sample in samples:
            family.add_sample(*sample)
        families.append(family)
    return families


def merge(workers: Mapping[str, Iterable[Family]]) -> Collector:
    """Merges the families of all workers, each sample with its worker's number. Each is merged as it is collected."""
    all: dict[str, list[tuple[str, Family]]] = {}
    for worker, families in sorted(workers.items()):
        for family in families:
            all.setdefault(family.name, []).append((worker, family))
    return _Merged(all.values())


def _merged(those: Sequence[tuple[str, Family]]) -> Family:
    _, first = those[0]
    merged = Family(first.name, first.documentation, first.type)
    for worker, family in those:
        for sample in family.samples:
            merged.add_sample(sample.name, {"worker": worker, **sample.labels}, sample.value)
    return merged


def render(collector: Collector, accept: str) -> Generator[None, None, tuple[bytes, str]]:
    """The text that Prometheus reads, in the newest form that the `Accept` header admits, and its content type.

    It gives way behind each family: the text of 16 workers takes 40 ms.
    """
    encode, content_type = exposition.choose_encoder(accept)
    text: list[bytes] = []
    for family in collector.collect():
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Given([family]))
        text.append(encode(registry).removesuffix(_END))
        yield
    if encode(CollectorRegistry()) == _END:
        text.append(_END)
    return b"".join(text), content_type
