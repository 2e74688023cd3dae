"""The recording of one run: events in their order and once, a lease that is kept, an end that says how it was.

It knows `POST /runs` and what stands below a run, and nothing of who emits: `Run` is that, in a coroutine or a thread.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from run_gateway.errors import ClientError, Refused, RunCancelled, RunEnded
from run_gateway.producer import Producer
from run_gateway.session import Session, refusal

AHEAD: Final = 1 << 20
"""Bytes of events that may wait for their answer before `emit` waits as well."""
LEASE: Final = 30
"""Seconds of the lease, if none is asked for."""
BEAT: Final = 3.0
"""Seconds of silence after which a sign of life is sent, which also learns of a cancel; a third of a short lease."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a recording: what is recorded where. `content`: the body of `POST /runs`."""

    base: str
    url: str
    id: str
    content: bytes
    lease: int
    producer_id: str


class Recording:
    """A run that is written to. `interrupted` is called once, with the reason why nothing more is taken."""

    def __init__(self, session: Session, plan: Plan, interrupted: Callable[[Exception], None]) -> None:
        self.coordinates: dict[str, str] = {}
        self.bytes = 0  # that wait for their answer
        self.why: Exception | None = None
        self._session = session
        self._plan = plan
        self._interrupted = interrupted
        self._producer = Producer(session, plan.url, plan.producer_id)
        self._waiting: list[bytes] = []
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ending = False
        self._sender: asyncio.Task[None]

    async def begin(self) -> None:
        """Makes the run, or takes it over. Raises ClientError: RunEnded if it has ended."""
        headers = {"content-type": "application/json"}
        answer = await self._session.send("POST", f"{self._plan.base}/runs", headers, self._plan.content)
        response = answer.response
        if response.status_code not in (200, 201):
            raise refusal(response)
        self.coordinates = response.json()
        if response.status_code == 200 and not answer.doubtful:
            await self._refuse_ended()
        self._sender = asyncio.create_task(self._send(), name=f"run {self._plan.id}")
        self._sender.add_done_callback(self._sent)

    async def _refuse_ended(self) -> None:
        record = (await self._session.send("GET", f"{self._plan.url}?meta")).response
        if record.status_code != 200:
            return  # a writer need not be able to read: the first append tells
        status = record.json()["status"]
        if status != "active":
            raise RunEnded(f"{self._plan.url}: the run has ended ({status}): record another one, under another id")

    def put(self, text: bytes) -> None:
        """Sends an event, with whatever else comes up while a request is under way. Raises ClientError."""
        if self._sender.done() or self._ending:
            raise self.why or ClientError(f"{self._plan.url}: the run has been left")
        self._waiting.append(text)
        self.bytes += len(text)
        self._news.set()

    async def at_most(self, size: int) -> None:
        """Returns when no more bytes than that wait. Raises ClientError."""
        while self.bytes > size:
            if self._sender.done():
                await self._sender  # it has failed, or this is after the end
                raise ClientError(f"{self._plan.url}: the run has been left")
            self._room.clear()
            await self._room.wait()

    def leave(self) -> None:
        """Ends the recording: nothing more is put, and nobody is interrupted."""
        self._ending = True
        self._news.set()

    async def end(self, error: BaseException | None, result: bytes | None) -> None:
        """Sends what waits, and closes the run; what is no `Exception` leaves it open. Raises ClientError."""
        self.leave()
        try:
            await self._sender
        except Refused as refused:  # one of the events was; the run itself can be ended
            with suppress(ClientError):
                await self._close(refused, result)
            raise
        finally:
            self._sender.cancel()
        if error is None or isinstance(error, Exception):
            await self._close(error, result)

    async def _close(self, error: Exception | None, result: bytes | None) -> None:
        cancelled = isinstance(error, RunCancelled)
        end: dict[str, Any] = {"type": "run_end", "isError": error is not None and not cancelled}
        if cancelled:
            end["status"] = "cancelled"
        elif error is not None:
            end["error"] = {"name": type(error).__name__, "message": str(error)}
        text = json.dumps(end).encode()
        if result is not None:
            text = b'%b,"result":%b}' % (text[:-1], result)
        await self._producer.append([text], close=True)

    async def _send(self) -> None:
        beat = min(BEAT, self._plan.lease / 3)
        while self._waiting or not self._ending:
            if self._waiting:
                batch, size = self._waiting, self.bytes
                self._waiting = []
                await self._producer.append(batch)
                self.bytes -= size
                self._room.set()
            elif not await self._news_within(beat):
                await self._producer.heartbeat()
            if self._producer.cancel_requested:
                self._interrupt(RunCancelled(f"{self._plan.url}: somebody has asked for the run to stop"))

    async def _news_within(self, seconds: float) -> bool:
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._news.wait()
        return False

    def _sent(self, sender: asyncio.Task[None]) -> None:
        if not sender.cancelled() and isinstance(error := sender.exception(), Exception):
            self._interrupt(error)
        self._room.set()

    def _interrupt(self, why: Exception) -> None:
        if self.why is None and not self._ending:
            self.why = why
            self._interrupted(why)
