"""Traces: an append belongs to its caller's trace, and leads to the delivery of what it appended."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.tracing.spans import Traced
from tests.machines import Machine
from tests.servers import Client, client_of, following, last_control, serving, until

JSON = {"content-type": "application/json"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
ZERO = "0000000000000000_000000000000000"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@contextmanager
def traced(database_url: str, exporter: InMemorySpanExporter) -> Iterator[Any]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def around(app: Any) -> Traced:
        return Traced(app, provider.get_tracer("test"), app.observe)

    with serving(database_url, "direct", around=around) as running:
        yield running


async def append(client: Client, content: bytes, **headers: str) -> int:
    return (await client("POST", "/runs/1", headers=JSON | headers, content=content)).status_code


async def test_a_run_is_followed_from_its_append_to_its_delivery(
    database_url: str, exporter: InMemorySpanExporter
) -> None:
    with traced(database_url, exporter) as running:
        async with client_of(running) as client:
            await client("PUT", "/runs/1", headers=JSON)
            assert await append(client, b"1", **TRACEPARENT) == 204, "nobody follows: nothing is delivered"
            async with following(client, "/runs/1?offset=-1&live=sse") as reader:
                await until(lambda: running.app._hub.followers["following"] == 1)
                assert await append(client, b"[2,3]", **TRACEPARENT) == 204
                await reader.until(
                    lambda _: (
                        bool(reader.reading.events) and last_control(reader.reading)["streamNextOffset"].endswith("3")
                    )
                )
            assert await append(client, b"{", **TRACEPARENT) == 400
    unheard, delivery, heard, refused = exporter.get_finished_spans()
    assert [span.name for span in (unheard, delivery, heard, refused)] == ["append", "deliver", "append", "append"]
    for span in (unheard, heard, refused):
        assert context(span).trace_id == int(TRACE, 16)
        assert span.parent is not None and span.parent.span_id == int(PARENT, 16)
    named = {"run_gateway.stream": "runs/1", "http.request.method": "POST"}
    assert unheard.attributes == named | {"http.response.status_code": 204, "run_gateway.offset": f"{ZERO}1"}
    assert heard.attributes == named | {"http.response.status_code": 204, "run_gateway.offset": f"{ZERO}3"}
    assert refused.attributes == named | {"http.response.status_code": 400}
    assert delivery.attributes == {
        "run_gateway.stream": "runs/1",
        "run_gateway.offset.start": f"{ZERO}1",
        "run_gateway.offset": f"{ZERO}3",
        "run_gateway.readers": 1,
    }
    assert not unheard.links and [link.context for link in heard.links] == [delivery.context]
    assert delivery.parent is None and context(delivery).trace_id != context(heard).trace_id


def context(span: ReadableSpan) -> Any:
    assert span.context is not None
    return span.context


class Collector(HTTPServer):
    """What a Machine exports to."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exports)
        self.received: list[ExportTraceServiceRequest] = []


class Exports(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


async def test_a_machine_exports_what_it_has_traced_before_it_ends(database_url: str) -> None:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            env = {
                "GATEWAY_TRACES": "true",
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
            }
            async with Machine.start(database_url, env=env) as machine:
                async with httpx.AsyncClient(base_url=machine.url) as http:
                    await http.put("/runs/1", headers=JSON)
                    assert (await http.post("/runs/1", headers=JSON | TRACEPARENT, content="1")).status_code == 204
                assert await machine.terminate() == 0
        finally:
            collector.shutdown()
            thread.join()
    (resource,) = [spans for request in collector.received for spans in request.resource_spans]
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "run-gateway"
    (span,) = [span for scope in resource.scope_spans for span in scope.spans]
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("append", TRACE, PARENT)


async def test_a_collector_that_is_away_keeps_no_machine_from_ending(database_url: str) -> None:
    env = {"GATEWAY_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    async with Machine.start(database_url, env=env) as machine:
        async with httpx.AsyncClient(base_url=machine.url) as http:
            await http.put("/runs/1", headers=JSON)
            assert (await http.post("/runs/1", headers=JSON, content="1")).status_code == 204
        assert await machine.terminate() == 0
