"""A run while its agent writes it: events in their order and once, a lease that is kept, an end that says how it was.

Unlike the rest of this package, which works with any server of the protocol, it knows `POST /runs` and what stands
below a run.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from run_gateway.address import stream_url
from run_gateway.errors import ClientError, Refused
from run_gateway.producer import Producer
from run_gateway.session import Session, refusal

AHEAD: Final = 1 << 20
"""Bytes of events that may wait for their answer before `emit` waits as well."""
LEASE: Final = 30
"""Seconds of the lease, if none is asked for."""
BEAT: Final = 3.0
"""Seconds of silence after which a sign of life is sent, which also learns of a cancel; a third of a short lease."""


class RunCancelled(ClientError):
    """Somebody has asked for the run to stop."""


class Run:
    """`async with Run(session, "http://host", {"id": "17"}) as run: await run.emit({"type": "token"})`.

    `fields` are those of `POST /runs`; what json.dumps does not take raises here, NaN as well. The block's end closes
    the run, with a `run_end` that says whether an exception left it. What is no `Exception`, such as a Ctrl-C or a
    deploy, leaves the run open: whoever begins it again takes it over, from this process too, and if nobody does, the
    lease ends it.

    A cancel of the run, or its loss to another producer, cancels what the block awaits, and is raised at the block's
    end (as asyncio.timeout does it). Raises ClientError.
    """

    def __init__(
        self, session: Session, base: str, fields: Mapping[str, Any] | None = None, *, producer_id: str = "agent"
    ) -> None:
        # The id is made here, so that a request whose answer was lost makes no second run.
        self._fields = {"id": f"run_{uuid.uuid4().hex}", "lease": LEASE, **(fields or {})}
        self._content = _text(self._fields, None)
        self._session = session
        self._base = base.rstrip("/")
        self._producer = Producer(session, stream_url(base, self._fields["id"]), producer_id)
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ending = False
        self._why: Exception | None = None
        self.coordinates: dict[str, str] = {}
        """What a reader needs: runId, streamUrl, offset and, if the gateway asks who comes, a token."""

    async def emit(self, event: object, default: Callable[[Any], Any] | None = None) -> None:
        """Has an event sent, with whatever else comes up while a request is under way; waits only beyond AHEAD.

        `default` turns what json does not know into what it does. Raises what json.dumps raises, ValueError for NaN and
        Infinity, and then the run goes on without the event; and ClientError.
        """
        text = _text(event, default)
        self._waiting.append(text)
        self._bytes += len(text)
        self._news.set()
        await self._at_most(AHEAD)

    async def flush(self) -> None:
        """Returns when every event so far is in the log. Raises ClientError."""
        await self._at_most(0)

    async def __aenter__(self) -> Self:
        headers = {"content-type": "application/json"}
        response = (await self._session.send("POST", f"{self._base}/runs", headers, self._content)).response
        if response.status_code not in (200, 201):
            raise refusal(response)
        self.coordinates = response.json()
        task = asyncio.current_task()
        assert task is not None
        self._body, self._cancels = task, task.cancelling()
        self._sender = asyncio.create_task(self._send(), name=f"run {self._fields['id']}")
        self._sender.add_done_callback(self._sent)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending = True
        self._news.set()
        if self._why is not None and self._body.uncancel() <= self._cancels and kind is asyncio.CancelledError:
            error = self._why
        try:
            await self._sender
        except Refused as refused:  # one of the events was; the run itself can be ended
            with suppress(ClientError):
                await self._close(refused)
            raise
        finally:
            self._sender.cancel()
        if error is None or isinstance(error, Exception):
            await self._close(error)
        if self._why is not None and error is self._why:
            raise self._why

    async def _close(self, error: Exception | None) -> None:
        end: dict[str, Any] = {"type": "run_end", "isError": error is not None}
        if error is not None:
            end["error"] = {"name": type(error).__name__, "message": str(error)}
        await self._producer.append([json.dumps(end).encode()], close=True)

    async def _send(self) -> None:
        beat = min(BEAT, (self._fields["lease"] or LEASE) / 3)
        while self._waiting or not self._ending:
            if self._waiting:
                batch, size = self._waiting, self._bytes
                self._waiting = []
                await self._producer.append(batch)
                self._bytes -= size
                self._room.set()
            elif not await self._news_within(beat):
                await self._producer.heartbeat()
            if self._producer.cancel_requested:
                self._interrupt(RunCancelled("The run was cancelled."))

    async def _news_within(self, seconds: float) -> bool:
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._news.wait()
        return False

    async def _at_most(self, size: int) -> None:
        while self._bytes > size:
            if self._sender.done():
                await self._sender  # it has failed, or this is after the end
                raise ClientError("the run has been left")
            self._room.clear()
            await self._room.wait()

    def _sent(self, sender: asyncio.Task[None]) -> None:
        if not sender.cancelled() and isinstance(error := sender.exception(), Exception):
            self._interrupt(error)
        self._room.set()

    def _interrupt(self, why: Exception) -> None:
        if self._why is None and not self._ending:
            self._why = why
            self._body.cancel()


def _text(event: object, default: Callable[[Any], Any] | None) -> bytes:
    text = json.dumps(event, default=default, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which is JSON only as an escape
        return json.dumps(event, default=default, separators=(",", ":"), allow_nan=False).encode()
