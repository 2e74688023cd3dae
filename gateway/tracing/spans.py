"""Appends and deliveries as spans.

`append` is one POST: its parent is the caller's span (`traceparent`), and it ends when the append is durable. `deliver`
is one batch that is written to its followers on one Machine. It is a trace of its own, since a batch may hold several
appends, and since other Machines learn of it by a notification that carries no trace. On the Machine of the append the
two are linked; everywhere, both name the stream and the offset.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, Tracer

from gateway.asgi import App, Message, Receive, Scope, Send
from gateway.auth.gate import PRINCIPAL, principal_of
from gateway.http.request_log import appended_to
from gateway.protocol.offset import format_offset
from gateway.protocol.target import shown, within

STREAM: Final = "run_gateway.stream"
OFFSET: Final = "run_gateway.offset"  # after the last event
START: Final = "run_gateway.offset.start"  # before the first one
READERS: Final = "run_gateway.readers"
STATUS: Final = "http.response.status_code"
METHOD: Final = "http.request.method"

Published = Callable[[str, int, int, int], None]
RECENT: Final = 1_024  # deliveries that are remembered: their appends are answered a moment later, and link to them


class Deliveries:
    """Makes a span for each batch that is written to followers, and remembers it, for its appends to link to."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._recent: OrderedDict[tuple[str, int], tuple[int, SpanContext]] = OrderedDict()

    def published(self, path: str, start: int, end: int, readers: int) -> None:
        """A batch of the stream at `path`, from one position to another, has been written to so many sockets."""
        attributes = {STREAM: shown(path), START: format_offset(start).decode(), OFFSET: format_offset(end).decode()}
        # Not a child of the current span, which is only one of the appends that were committed together.
        span = self._tracer.start_span("deliver", Context(), SpanKind.PRODUCER, attributes | {READERS: readers})
        span.end()
        self._recent[path, end] = (start, span.get_span_context())
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def of(self, path: str, offset: str) -> SpanContext | None:
        """The delivery of the event before this offset, if it was on this Machine and not long ago."""
        for (known, end), (start, context) in reversed(self._recent.items()):
            if known == path and format_offset(start).decode() < offset <= format_offset(end).decode():
                return context
        return None


class Traced:
    """Wraps an application, and makes a span for each append. Appends then take the slower path, through ASGI."""

    def __init__(self, app: App, tracer: Tracer, observe: Callable[[Published], None]) -> None:
        self._app = app
        self._tracer = tracer
        self._deliveries = Deliveries(tracer)
        observe(self._deliveries.published)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = appended_to(scope)
        if path is None:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracer.start_as_current_span(
            "append", propagate.extract(headers), SpanKind.SERVER, {STREAM: path, METHOD: "POST"}
        ) as span:

            async def watched(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status: int = message["status"]
                    span.set_attribute(STATUS, status)
                    if status >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                    stored = within(principal_of(scope).tenant, path) if PRINCIPAL in scope else path
                    span.set_attribute(STREAM, shown(stored))
                    offset = dict(message["headers"]).get(b"stream-next-offset")
                    if offset is not None:
                        span.set_attribute(OFFSET, offset.decode())
                        delivery = self._deliveries.of(stored, offset.decode())
                        if delivery is not None:
                            span.add_link(delivery)
                await send(message)

            await self._app(scope, receive, watched)
