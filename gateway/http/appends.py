"""`POST /v1/appends`: many streams' appends in one request, which go to the log together and are answered one by one.

Each is judged as the POST that it stands for would be: its stream's credential, its limits, its producer. What becomes
of one says nothing of the others, and holds up none of their answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Protocol

import orjson

from gateway.asgi import Receive, Scope, Send, client_of
from gateway.auth.gate import check_target, principal_of
from gateway.auth.principal import ANONYMOUS
from gateway.counting import SIZES, Histogram
from gateway.http import responses
from gateway.http.limits import Limits
from gateway.log.appends import Appended, Settle
from gateway.protocol.append import UNNUMBERED, AppendRequest
from gateway.protocol.appends import CONTENT_TYPE, Asked, appends_in_pieces
from gateway.protocol.batch import media_type
from gateway.protocol.errors import InvalidRequest, ProtocolError
from gateway.protocol.headers import NO_STORE
from gateway.protocol.offset import format_offset
from gateway.protocol.target import within
from gateway.quotas import Quotas
from gateway.tasks import in_turns

ROUTE: Final = "/v1/appends"
MOST: Final = 20_000  # appends, where no limit is set
TOGETHER: Final = 0.05  # seconds after which the outcomes that are there are sent, and no longer all at once
SLICE: Final = 500  # appends that are handed to the log in one turn of the loop

_HEADERS: Final = [(b"content-type", CONTENT_TYPE.encode()), NO_STORE]
_NAMES: Final = {
    b"stream-next-offset": "streamNextOffset",
    b"producer-epoch": "producerEpoch",
    b"producer-seq": "producerSeq",
    b"producer-expected-seq": "producerExpectedSeq",
    b"producer-received-seq": "producerReceivedSeq",
    b"retry-after": "retryAfter",
    b"stream-closed": "streamClosed",
}
"""Headers of a refusal that its outcome has as fields."""


class Log(Protocol):
    """The port to a log."""

    def submit_together(self, requests: Sequence[tuple[AppendRequest, Settle]]) -> None: ...


class _Outcomes:
    """The outcomes of one request's appends, each a line, which are kept until the response takes them."""

    def __init__(self, count: int) -> None:
        self.left = count
        self._all = asyncio.Event()
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self.left -= 1
        if not self.left:
            self._all.set()

    async def gathered(self) -> None:
        """Waits until all are there, for TOGETHER seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(TOGETHER):
                await self._all.wait()

    def take(self) -> bytes:
        lines, self._lines = self._lines, []
        return b"".join(lines)


class Appends:
    """The route, straight over ASGI. `sizes` counts requests by their appends."""

    def __init__(self, log: Log, limits: Limits, quotas: Quotas) -> None:
        self.sizes = Histogram(SIZES)
        self._log = log
        self._limits = limits
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers in one piece if all outcomes are there within TOGETHER seconds, or else as they come. Raises
        ProtocolError while nothing has been sent.
        """
        given = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        if media_type(given.decode("latin-1")) != CONTENT_TYPE:
            raise InvalidRequest(f"Content-Type must be {CONTENT_TYPE}.")  # which no page of another origin may send
        limits = self._limits
        body = await limits.bodies.read(scope, receive, limits.max_body)
        asked = await in_turns(appends_in_pieces(body, limits.max_batch or MOST), len(body))
        del body
        self.sizes.observe(len(asked))
        outcomes = _Outcomes(len(asked))
        judge = self._judge(scope)
        for begin in range(0, len(asked), SLICE):
            if begin:
                await asyncio.sleep(0)
            self._submit(scope, asked[begin : begin + SLICE], begin, judge, outcomes)
        await outcomes.gathered()
        if not outcomes.left:
            await responses.respond(send, 200, _HEADERS, outcomes.take())
            return
        await responses.start(send, 200, _HEADERS)
        while outcomes.left:
            if lines := outcomes.take():
                await responses.piece(send, lines)
            await outcomes.gathered()
        await responses.piece(send, outcomes.take())
        await responses.finish(send)

    def _submit(
        self, scope: Scope, asked: list[Asked], first: int, judge: Callable[[Asked], None], outcomes: _Outcomes
    ) -> None:
        requests: list[tuple[AppendRequest, Settle]] = []
        for number, each in enumerate(asked, first):
            try:
                judge(each)
            except ProtocolError as error:
                outcomes.add(_refused(scope, number, error))
            else:
                requests.append((each.request, partial(_settle, scope, outcomes, number, each.request)))
        self._log.submit_together(requests)

    def _judge(self, scope: Scope) -> Callable[[Asked], None]:
        """A check of single appends: sets the append's path in the log, or raises its refusal."""
        principal, client = principal_of(scope), client_of(scope)
        check, tenant = self._limits.check, principal.tenant
        charge = self._quotas.charge if self._quotas.judging else None
        checked = principal is not ANONYMOUS

        def judge(asked: Asked) -> None:
            target = asked.target
            if target is not None:  # as at the door: before anything is said of what was sent
                if checked:
                    check_target(principal, "POST", target)
                if charge is not None:
                    charge(target, principal, client)
            if asked.refused is not None:
                raise asked.refused
            assert target is not None
            check(asked.request.events)
            asked.request.path = within(tenant, (target.stream if target.part is None else target.run) or "")

        return judge


def _settle(
    scope: Scope, outcomes: _Outcomes, number: int, request: AppendRequest, outcome: Appended | ProtocolError
) -> None:
    if isinstance(outcome, Appended):
        outcomes.add(_appended(number, request, outcome))
    else:
        outcomes.add(_refused(scope, number, outcome))


def _appended(number: int, request: AppendRequest, result: Appended) -> bytes:
    producer = request.producer
    if producer is None and not result.closed and not result.cancel_requested:
        return b'{"append":%d,"status":204,"streamNextOffset":"%b"}\n' % (number, format_offset(result.tail))
    # As `stream_routes` answers: 200 tells a producer that its data is new (§5.2.1).
    status = 200 if producer and request.events and not result.duplicate else 204
    line = b'{"append":%d,"status":%d,"streamNextOffset":"%b"' % (number, status, format_offset(result.tail))
    if producer is not None and producer.seq != UNNUMBERED:
        line += b',"producerEpoch":%d,"producerSeq":%d' % (result.epoch or 0, result.seq or 0)
    if result.closed:
        line += b',"streamClosed":true'
    if result.cancel_requested:
        line += b',"runCancelRequested":true'
    return line + b"}\n"


def _refused(scope: Scope, number: int, error: ProtocolError) -> bytes:
    headers, body = responses.refusal(scope, error)
    told: dict[str, Any] = {"append": number, "status": error.status, "error": orjson.Fragment(body[9:-1])}
    for name, value in headers:
        if (field := _NAMES.get(name)) is not None:
            told[field] = True if value == b"true" else int(value) if value.isdigit() else value.decode()
    return orjson.dumps(told, option=orjson.OPT_APPEND_NEWLINE)
