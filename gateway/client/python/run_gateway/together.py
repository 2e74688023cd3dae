"""Appends of many writers in one process, in one request (`POST /v1/appends`): a few milliseconds' worth at a time.

Each writer waits for its own outcome, and tries again by itself. A gateway that does not know the route is asked once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import httpx
import orjson

from run_gateway.retry import RETRIED

GATHER: Final = 0.003  # seconds that appends are gathered for
MOST: Final = 500  # appends of a request
EVENTS: Final = 5_000  # from which on a request takes no more; a server may refuse what has too many
BYTES: Final = 1 << 20
UNDER_WAY: Final = 4  # requests; with a stream that takes long in each, others wait
UNKNOWN: Final = frozenset({404, 405, 501})

_FIELDS: Final = {
    "producer-id": "producerId",
    "producer-epoch": "producerEpoch",
    "producer-seq": "producerSeq",
    "stream-closed": "streamClosed",
}
_NAMES: Final = {
    "streamNextOffset": "stream-next-offset",
    "streamClosed": "stream-closed",
    "producerEpoch": "producer-epoch",
    "producerSeq": "producer-seq",
    "producerExpectedSeq": "producer-expected-seq",
    "producerReceivedSeq": "producer-received-seq",
    "runCancelRequested": "run-cancel-requested",
    "retryAfter": "retry-after",
}
_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")


class Alone(Exception):
    """Raised for an append that has to be a request of its own: the gateway does not take it together with others."""


class Told(NamedTuple):
    """An outcome as the answer to a POST of its own would tell it."""

    status: int
    headers: Mapping[str, str]
    said: str


class _Entry(NamedTuple):
    lines: bytes
    events: int
    told: asyncio.Future[Told]


class Together:
    """The appends to one gateway. `known_there`: whether it takes them together, as far as is known."""

    def __init__(self, http: httpx.AsyncClient, base: str) -> None:
        self.known_there = True
        self.requests = 0
        self._http = http
        self._url = f"{base}/v1/appends"
        self._waiting: deque[_Entry] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._gathering: asyncio.Task[None] | None = None

    async def append(self, stream: str, headers: Mapping[str, str], body: bytes, events: int = 1) -> Told:
        """Appends so many events, with whatever else comes up within GATHER. Raises Alone, httpx.RequestError."""
        head: dict[str, Any] = {"stream": stream}
        for name, value in headers.items():
            if (field := _FIELDS.get(name)) is not None:
                head[field] = value if field == "producerId" else True if field == "streamClosed" else int(value)
        lines = b"%b\n%b\n" % (orjson.dumps(head), body.translate(_ONE_LINE))
        entry = _Entry(lines, events, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._gathering is None:
            self._gathering = asyncio.create_task(self._gather(), name="appends that go together")
        return await entry.told

    async def _gather(self) -> None:
        """Sends what waits. Ends when nothing does."""
        try:
            while self._waiting:
                await asyncio.sleep(GATHER)
                if len(self._sending) >= UNDER_WAY:
                    await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
                begun = asyncio.Event()
                sending = asyncio.create_task(self._send(self._next(), begun), name="appends that go together")
                self._sending.add(sending)
                sending.add_done_callback(self._sending.discard)
                await begun.wait()  # what comes up meanwhile goes together
        finally:
            self._gathering = None

    def _next(self) -> list[_Entry]:
        taken: list[_Entry] = []
        size = events = 0
        while self._waiting and len(taken) < MOST and size < BYTES and events < EVENTS:
            entry = self._waiting.popleft()
            if entry.told.done():  # the caller was cancelled
                continue
            size += len(entry.lines)
            events += entry.events
            taken.append(entry)
        return taken

    async def _send(self, entries: list[_Entry], begun: asyncio.Event) -> None:
        """Sends one request. Each of its appends gets its outcome, or what the request failed by."""
        failure: Exception = Alone()
        try:
            if entries:
                await self._ask(entries, begun)
        except httpx.RequestError as error:
            failure = error
        finally:
            begun.set()
            for entry in entries:
                if not entry.told.done():
                    entry.told.set_exception(failure)

    async def _ask(self, entries: list[_Entry], begun: asyncio.Event) -> None:
        self.requests += 1
        content = b"".join([entry.lines for entry in entries])
        headers = {"content-type": "application/x-ndjson"}
        async with self._http.stream("POST", self._url, content=content, headers=headers) as response:
            if response.status_code != 200:
                self._refused(response, entries)
                return
            rest = b""
            async for piece in response.aiter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                try:
                    for line in lines:
                        _tell(entries, line)
                except (ValueError, KeyError, IndexError, TypeError) as error:
                    raise httpx.RemoteProtocolError(f"an answer that is none: {error!r}") from error
                begun.set()
        if not all(entry.told.done() for entry in entries):
            raise httpx.RemoteProtocolError("the answer ended before every append had its outcome")

    async def close(self) -> None:
        """Ends what is under way, for which nobody waits any more."""
        tasks = [*self._sending, *([self._gathering] if self._gathering else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _refused(self, response: httpx.Response, entries: list[_Entry]) -> None:
        """The whole request was. What may pass is tried again; anything else is told to each by its own request."""
        if response.status_code in UNKNOWN:
            self.known_there = False
        if response.status_code not in RETRIED:
            return
        headers = {"retry-after": response.headers.get("retry-after", "")}
        for entry in entries:
            if not entry.told.done():
                told = Told(response.status_code, headers, f"{response.status_code} {response.reason_phrase}")
                entry.told.set_result(told)


def _tell(entries: list[_Entry], line: bytes) -> None:
    outcome = orjson.loads(line)
    entry = entries[outcome["append"]]
    if entry.told.done():
        return
    headers = {}
    for field, name in _NAMES.items():
        if (value := outcome.get(field)) is not None:
            headers[name] = "true" if value is True else str(value)
    status, error = outcome["status"], outcome.get("error")
    said = f"{status}" if error is None else f"{status} {error['message']} {error.get('details') or ''}".rstrip()
    entry.told.set_result(Told(status, headers, said))
