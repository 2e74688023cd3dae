"""Appending to one stream as an idempotent producer (protocol §5.2.1): every batch once, in order.

One request at a time. A request whose outcome is not known is sent again with the same number; the server
knows whether it has it already.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from run_gateway.errors import BadAnswer, Fenced, Refused
from run_gateway.session import Outcome, Session, error_of, refusal

MOST: Final = 1_000
"""Events of one request: a server may refuse more than so many at once."""


def fresh_epoch() -> int:
    """An epoch later than that of any earlier session of this id, without asking a server: milliseconds.

    Starting at 0 again would be taken for a repetition of what the earlier session had sent, and dropped (§5.2.1).
    """
    return time.time_ns() // 1_000_000


class Producer:
    """A writer of JSON events to one stream: a new producer, or the one whose id it is given and takes over."""

    def __init__(self, session: Session, url: str, producer_id: str | None = None) -> None:
        self._session = session
        self._url = url
        self._id = producer_id or str(uuid.uuid4())
        self._epoch = fresh_epoch() if producer_id else 0
        self._seq = 0
        self.cancel_requested = False
        """Whether a run gateway has said that the run is asked to stop."""

    async def create(self) -> str:
        """Makes sure that the stream exists, and returns its next offset. Raises ClientError."""
        answer = await self._session.send("PUT", self._url, {"content-type": "application/json"})
        if answer.response.status_code not in (200, 201):
            raise refusal(answer.response)
        return _next_offset(self._url, answer.response.headers)

    async def append(self, events: Sequence[bytes], *, close: bool = False) -> str:
        """Appends events, each one JSON text, and returns the next offset. More than MOST go in several requests.

        Raises ClientError; TypeError for what is no list of bytes.
        """
        if isinstance(events, bytes | bytearray | str) or not all(isinstance(event, bytes) for event in events):
            raise TypeError("events are a list of bytes, each one JSON text")
        last = max(0, len(events) - 1) // MOST * MOST
        for begin in range(0, last, MOST):
            await self._post(_array(events[begin : begin + MOST]), MOST, close=False)
        return await self._post(_array(events[last:]), len(events) - last, close)

    async def close(self) -> str:
        """Closes the stream, and returns its final offset. Raises ClientError."""
        return await self._post(b"", 0, close=True)

    async def heartbeat(self) -> None:
        """A sign of life, which a run gateway takes from a run's producer. Raises ClientError."""
        await self._ask(f"{self._url}/heartbeat", {})

    async def _post(self, body: bytes, events: int, close: bool) -> str:
        headers = {"producer-seq": str(self._seq)}
        headers |= {"stream-closed": "true"} if close else {}
        outcome = await self._ask(self._url, headers, body, events)
        self._seq += 1
        return _next_offset(outcome.url, outcome.headers)

    async def _ask(self, url: str, headers: dict[str, str], body: bytes = b"", events: int = 0) -> Outcome:
        while True:
            named = {"producer-id": self._id, "producer-epoch": str(self._epoch)}
            outcome = await self._session.append(url, named | headers, body, events)
            if self._can_claim(outcome):
                self._epoch = _number(outcome, "producer-epoch") + 1
                continue
            self._judge(outcome)
            self.cancel_requested |= outcome.headers.get("run-cancel-requested") == "true"
            return outcome

    def _can_claim(self, outcome: Outcome) -> bool:
        # Only before anything of ours can have been accepted; later it is we who have been replaced.
        return self._seq == 0 and not outcome.doubtful and _replaced(outcome)

    def _judge(self, outcome: Outcome) -> None:
        headers = outcome.headers
        if _replaced(outcome):
            raise Fenced(f"{self._url}: another producer has taken over the id {self._id!r}")
        if outcome.status == 409 and "producer-expected-seq" in headers:
            raise Refused(f"{self._url}: {outcome.said}: the server has lost count of this producer")
        if outcome.status not in (200, 204):
            raise error_of(outcome.url, outcome.status, headers, outcome.said)
        # A number beyond all of ours: someone else sends under this id and epoch, and took our place.
        if "producer-seq" in headers and _number(outcome, "producer-seq") > self._seq:
            raise Fenced(f"{self._url}: another producer uses the id {self._id!r} at the same time")


def _array(events: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(events) + b"]"


def _replaced(outcome: Outcome) -> bool:
    """True if another producer has a later epoch; a 403 with Stream-Closed says that the run's lease ran out."""
    return outcome.status == 403 and "producer-epoch" in outcome.headers and "stream-closed" not in outcome.headers


def _number(outcome: Outcome, header: str) -> int:
    value = outcome.headers[header]
    if not (value.isascii() and value.isdigit()):
        raise BadAnswer(f"{outcome.url}: {header} is {value!r}")
    return int(value)


def _next_offset(url: str, headers: Mapping[str, str]) -> str:
    offset = headers.get("stream-next-offset")
    if offset is None:
        raise BadAnswer(f"{url}: answered without Stream-Next-Offset")
    return offset
