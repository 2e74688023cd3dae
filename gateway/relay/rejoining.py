"""Goes on with an answer whose connection to the upstream is lost, or whose Machine is, where the upstream can.

It is asked for what comes after the log's end, and a little before it. What it sends again is compared with the log;
the rest is recorded as if nothing had happened. If the upstream cannot, the run is lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Final

from gateway.http import informational
from gateway.http.upstream import BadGateway
from gateway.protocol.batch import Page
from gateway.protocol.errors import StreamGone, StreamNotFound, TooManyReads, Unavailable
from gateway.protocol.target import shown
from gateway.relay import answers
from gateway.relay.asking import Answer, Asking
from gateway.relay.contact import Contact
from gateway.relay.framing import Framer, silent
from gateway.relay.known import Known, NotTheSame, Overlap
from gateway.relay.recorder import Recorder
from gateway.relay.replay import split
from gateway.relay.store import Store

logger = logging.getLogger("gateway.relay")

TOLD: Final = 30.0  # seconds in which the upstream has to take a stop
PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0)  # seconds before it is asked again
_LATER: Final = frozenset((408, 425, 429, 500, 502, 503, 504))  # what may be otherwise in a moment

Read = Callable[[str, int], Awaitable[Page]]
"""A page of the log after a position."""


class Rejoining:
    """The recordings that go on at this Machine after a loss. `most`: bytes that one frame may have. `patience`:
    seconds in which the upstream has to be back, and to have sent again what is in the log.
    """

    def __init__(self, asking: Asking, read: Read, store: Store, most: int, patience: float) -> None:
        self.rejoined = 0
        self._asking = asking
        self._read = read
        self._store = store
        self._most = most
        self._patience = patience
        self._errands = set[asyncio.Task[None]]()

    def prepare(self, recorder: Recorder, contact: Contact) -> None:
        """Gives a recorder its ways to go on and to have the upstream stop, by this contact."""
        if contact.rest is not None:
            recorder.again = partial(self._begin, recorder, contact)
        if contact.cancel is not None:
            recorder.stopping = partial(self._stop, recorder, contact.cancel, contact)

    def forget(self, recorder: Recorder) -> None:
        """Forgets the client's own headers, if the run has ended."""
        if recorder.row.rejoin is not None and recorder.row.rejoin.send:
            self._send(self._forget(recorder.stream))

    async def _forget(self, stream: int) -> None:
        with suppress(Unavailable):  # it goes with the recording
            await self._store.forget(stream)

    def _send(self, errand: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(errand, name="relay: an errand")
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    def _begin(self, recorder: Recorder, contact: Contact, reason: str) -> None:
        logger.info("Run %s: %s; the upstream is asked for the rest.", shown(recorder.path), reason)
        task = asyncio.create_task(self._go_on(recorder, contact, reason), name="relay: the rest of an answer")
        recorder.asking = task

    async def _go_on(self, recorder: Recorder, contact: Contact, reason: str) -> None:
        until = time.monotonic() + self._patience
        tries = 0
        while not recorder.over:
            try:
                await self._rejoin(recorder, contact, until)
            except (BadGateway, Unavailable, TooManyReads, TimeoutError) as error:
                if time.monotonic() >= until and not isinstance(error, Unavailable):
                    self._lose(recorder, f"{reason}, and in {self._patience:g} s the upstream was not back")
                    return
                await asyncio.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
                tries += 1
            except NotTheSame as error:
                self._lose(recorder, f"{reason}, and the upstream {error}")
                return
            except (StreamNotFound, StreamGone):
                recorder.asking = None
                recorder.let_go()
                return
            else:
                self.rejoined += 1
                return

    def _lose(self, recorder: Recorder, reason: str) -> None:
        recorder.asking = None  # which is this task: it ends by itself
        recorder.lose(reason)

    async def _rejoin(self, recorder: Recorder, contact: Contact, until: float) -> None:
        """Asks once. Raises NotTheSame where asking again would not help."""
        await recorder.settled()
        last, overlap = (await self._known(recorder)).begin()
        async with asyncio.timeout(max(1.0, until - time.monotonic())):
            target, headers = contact.asking(recorder.row, last)
            answer = await self._asking("GET", target, headers, b"")
            try:
                self._judge(recorder, answer)
                again = _Again(recorder, answer, overlap, self._most)
                await again.over
            except BaseException:
                answer.close()
                raise

    def _judge(self, recorder: Recorder, answer: Answer) -> None:
        if answer.status in _LATER:
            raise BadGateway(f"It answers {answer.status}.")
        if not answers.recordable(recorder.row, answer.status, answer.headers):
            raise NotTheSame(f"cannot go on with it ({answer.status})")

    async def _known(self, recorder: Recorder) -> Known:
        """Reads the frames of this recording from the log."""
        assert recorder.row.rejoin is not None, "or nothing would be gone on with"
        known, position = Known(recorder.row.frames, recorder.row.rejoin.last), 0
        while True:
            batch = (await self._read(recorder.path, position)).batch
            for frame in split(recorder.row.frames, batch):
                known.add(frame)
            position = batch.end
            if batch.up_to_date or batch.closed:
                return known

    def _stop(self, recorder: Recorder, cancel: tuple[str, str], contact: Contact) -> None:
        self._send(self._tell_to_stop(recorder, cancel, contact))

    async def _tell_to_stop(self, recorder: Recorder, cancel: tuple[str, str], contact: Contact) -> None:
        method, target, path = *cancel, recorder.path
        informational.guard.set(None if recorder.held is None else recorder.held.guard())
        headers = [*contact.headers, (b"content-length", b"0")]
        try:
            async with asyncio.timeout(TOLD):
                answer = await self._asking(method, target.encode(), headers, b"")
            answer.close()
        except (BadGateway, TimeoutError) as error:
            logger.warning("The upstream could not be told to stop run %s (%s).", shown(path), type(error).__name__)
        else:
            if not 200 <= answer.status < 300:
                logger.warning("The upstream answers %d to the stop of run %s.", answer.status, shown(path))


class _Again:
    """Listens to what the upstream sends again. `over`: its end, from which on the recorder listens itself."""

    def __init__(self, recorder: Recorder, answer: Answer, overlap: Overlap, most: int) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._recorder = recorder
        self._answer = answer
        self._overlap = overlap
        self._most = most
        self._framer = Framer(recorder.row.frames)
        if overlap.over:
            self._hand_on(b"")
        else:
            answer.listen(self)

    def data(self, data: bytes) -> None:
        frames = self._framer.feed(data)
        try:
            for number, frame in enumerate(frames):
                if self._overlap.over:
                    self._hand_on(b"".join(frames[number:]) + self._framer.rest)
                    return
                if not (self._recorder.row.frames == "sse" and silent(frame)):
                    self._overlap.take(frame)
            if self._framer.size > self._most:
                raise NotTheSame("sends something else than is recorded")
        except NotTheSame as error:
            self._answer.hold()
            self.over.set_exception(error)
            return
        if self._overlap.over:
            self._hand_on(self._framer.rest)

    def ended(self, fault: str | None) -> None:
        error = NotTheSame("sends less than is recorded") if fault is None else BadGateway(fault)
        if not self.over.done():
            self.over.set_exception(error)

    def _hand_on(self, rest: bytes) -> None:
        self.over.set_result(None)
        if rest:
            self._recorder.data(rest)
        self._recorder.record(self._answer)
