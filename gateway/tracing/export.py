"""The export of spans to a collector over OTLP, as OpenTelemetry's own variables say (OTEL_EXPORTER_OTLP_…)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer


@contextmanager
def tracer(machine: str, place: Mapping[str, str]) -> Iterator[Tracer]:
    """A tracer whose spans are sent in the background; what is left is sent at the end of the block."""
    named = {"service.instance.id": machine, **{f"run_gateway.{name}": value for name, value in place.items()}}
    resource = Resource.create(named)
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # no variable has named it
        resource = resource.merge(Resource({SERVICE_NAME: "run-gateway"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider.get_tracer("run_gateway")
    finally:
        provider.shutdown()
