"""Records one answer of the upstream: its frames become the events of a run, in their order and as their bytes.

Frames that come together go into one append, and while it is under way those that come meanwhile gather for the next;
all recordings append in rounds (`gateway.relay.rounds`).
Each append has a number (Stream-Seq), so that one whose outcome is unknown is made again and counts once. Whatever
readers do is nobody's business here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from gateway.counting import SECONDS, Histogram
from gateway.feed import Feed
from gateway.http.owned import Held
from gateway.log.appends import Appended, Settle
from gateway.protocol.append import AppendRequest
from gateway.protocol.errors import ProtocolError, StreamSeqConflict, TooManyPending, Unavailable
from gateway.protocol.target import shown
from gateway.relay.asking import Answer
from gateway.relay.framing import Framer, silent
from gateway.relay.rounds import Rounds
from gateway.relay.rows import Row
from gateway.relay.store import Store

logger = logging.getLogger("gateway.relay")

MOST_WAITING: Final = 256 << 10  # bytes of frames that wait for an append before the upstream has to
MOST_FRAMES: Final = 1_000  # in one append
GENERATION: Final = 10**12  # by how much the numbers of appends go up when another Machine takes a recording over
AGAIN: Final[Sequence[float]] = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds before an append is made again


class Log(Protocol):
    """The port of a recorder to the log."""

    def submit(self, request: AppendRequest, settle: Settle) -> None: ...
    def submit_together(self, requests: Sequence[tuple[AppendRequest, Settle]]) -> None: ...


class Counts:
    """The counts of all recorders of a Machine. `delay`: seconds from a frame's arrival to its commit."""

    def __init__(self) -> None:
        self.frames = 0
        self.bytes = 0
        self.ended: Counter[str] = Counter()  # before the upstream did: lost, stopped, left
        self.unrecorded = 0
        self.delay = Histogram(SECONDS)


class Recorder:
    """The recording of one run, from its claim on. `done` is called when the run has ended, or is no more ours to end.

    `most`: bytes that one frame may have. `lease`: seconds. `generation`: how often it has been taken over.
    """

    def __init__(
        self,
        path: str,
        stream: int,
        row: Row,
        log: Log,
        rounds: Rounds,
        store: Store,
        feed: Feed,
        counts: Counts,
        *,
        most: int,
        lease: int,
        done: Callable[[Recorder], None],
        generation: int = 0,
    ) -> None:
        self.path = path
        self.stream = stream
        self.row = row
        self.began = self.heard = time.monotonic()  # since when there is something of it; when the upstream last spoke
        self.left: float | None = None  # since when there is no reader, as far as this Machine knows
        self.cancels = False  # whether it is cancelled when there is none
        self.asking: asyncio.Task[object] | None = None  # while the upstream has not answered
        self.generation = generation
        self.again: Callable[[str], None] | None = None  # asks for the rest, where the upstream can go on with it
        self.stopping: Callable[[], None] | None = None  # tells the upstream, where it can be told to stop
        self.held: Held | None = None  # the conversation that it belongs to, where those have owners
        self.noting = False  # the head of the answer is on its way to the database: until then there is no end
        self._log = log
        self._rounds = rounds
        self._round = 0  # in which it has appended last
        self._joined = False  # the next one
        self._store = store
        self._feed = feed
        self._counts = counts
        self._most = most
        self._lease = lease
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._framer = Framer(row.frames)
        self._is_sse = row.frames == "sse"
        self._answer: Answer | None = None
        self._frames: list[bytes] = []
        self._waiting = 0  # their bytes
        self._since = 0.0  # when the oldest of them came
        self._sent_since = 0.0  # the same of those that are being appended
        self._sent: AppendRequest | None = None
        self._tries = 0
        self._number = generation * GENERATION
        self._signed = self.began  # the last sign of life
        self._beating = False
        self._closing = False
        self._fault: str | None = None
        self._handing = False  # it ends here, and goes on elsewhere
        self._settled: asyncio.Event | None = None
        self._losing: asyncio.Task[None] | None = None
        self.over = False

    def record(self, answer: Answer) -> None:
        """Takes what the upstream answers, from now on."""
        self.asking = None
        self.heard = time.monotonic()
        if self.over or self._closing or self._fault is not None:
            answer.close()
            return
        self._answer = answer
        answer.read_with(self._rounds.reading)
        answer.listen(self)

    async def settled(self) -> None:
        """Returns when all frames that have come are in the log."""
        while (self._sent is not None or self._frames) and not self.over:
            self._settled = self._settled or asyncio.Event()
            await self._settled.wait()

    def data(self, data: bytes) -> None:
        """The upstream has sent this."""
        self.heard = time.monotonic()
        frames = self._framer.feed(data)
        if self._is_sse:
            frames = [frame for frame in frames if not silent(frame)]
        if frames:
            if not self._frames:
                self._since = self.heard
            self._gather(frames)
            self._send()
        if self._framer.size > self._most:
            self.lose(f"a frame has more than {self._most} bytes")
        elif self._waiting > MOST_WAITING and self._answer is not None:
            self._answer.wait()

    def ended(self, fault: str | None) -> None:
        """The upstream sends nothing more."""
        self._answer = None
        if fault is not None and self.again is not None:
            self.interrupted(fault)
        elif fault is not None:
            self.lose(fault)
        elif not self._closing:
            if self._framer.size:  # a last frame without its blank line, which some clients take all the same
                self._gather([self._framer.rest])
            self._close()

    def noted(self) -> None:
        """Notes that the answer's head is stored, where clients that come back find it: from now on the run may end."""
        self.noting = False
        self._send()

    def stop(self, why: str = "stopped") -> None:
        """Stops the recording: leaves the upstream, and ends the run with the row's frame. `why`: it was asked for, or
        every reader has `left`.
        """
        if self._closing or self.over or self._fault is not None:
            return
        self._counts.ended[why] += 1
        logger.info("Run %s is %s; its upstream is left.", shown(self.path), why)
        if self.stopping is not None:
            self.stopping()
        self._leave()
        if self.row.stopped_frame:
            self._gather([self.row.stopped_frame])
        self._close()

    def lose(self, reason: str) -> None:
        """The rest of the answer cannot be had: the run ends with what came whole, and the row's frame."""
        if self._closing or self.over or self._fault is not None:
            return
        self._fault = reason
        if not self._handing:
            self._lost(reason)
        self._leave()
        self._send()

    def interrupted(self, reason: str) -> None:
        """Asks for the rest of the answer, which the upstream can give."""
        if self._closing or self.over or self._fault is not None:
            return
        assert self.again is not None, "or it would be lost"
        self._framer = Framer(self.row.frames)  # what has begun comes again
        self.again(reason)

    def hand_over(self, reason: str) -> None:
        """Leaves the rest to another Machine, where one can go on with it; else the rest is lost."""
        if self.again is not None and not (self._closing or self.over or self._fault is not None):
            self._handing = True
        self.lose(reason)

    def let_go(self) -> None:
        """The run is not ours any more: whatever comes is not recorded."""
        self._leave()
        if self._losing is not None:
            self._losing.cancel()
        self._finish()

    def tick(self, now: float) -> None:
        """Gives a sign of life, if it is time for one. `now`: monotonic seconds."""
        if now - self._signed >= self._lease / 3 and self._sent is None:
            self.ask()

    def ask(self) -> None:
        """Gives a sign of life, and learns whether the run is to stop."""
        if self._beating or self.over:
            return
        self._beating = True
        try:
            self._log.submit(AppendRequest(self.path, None, []), self._beat)
        except TooManyPending:
            self._beating = False

    def _beat(self, outcome: Appended | ProtocolError) -> None:
        self._beating = False
        if isinstance(outcome, Appended):
            self._alive(outcome)
        elif not isinstance(outcome, Unavailable):
            self._ended_elsewhere(outcome)

    def _alive(self, outcome: Appended) -> None:
        self._signed = time.monotonic()
        if outcome.cancel_requested:
            self.stop()

    def _leave(self) -> None:
        if self.asking is not None:
            self.asking.cancel()
            self.asking = None
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _gather(self, frames: Sequence[bytes]) -> None:
        self._frames += frames
        self._waiting += sum(map(len, frames))

    def _close(self) -> None:
        self._closing = True
        self._send()

    def _send(self) -> None:
        """Appends what has gathered in the next round, unless an append is under way."""
        if self._sent is not None or self._joined or self.over:
            return
        if self._frames or (self._closing and not self.noting):
            self._joined = True
            self._rounds.join(self._append)
            return
        self._settle_down()
        if self._fault is not None and self._losing is None:
            self._losing = self._loop.create_task(self._lose(self._fault))

    def _append(self) -> tuple[AppendRequest, Settle] | None:
        """The append of the frames that have gathered."""
        self._joined = False
        if self.over:
            return None
        self._round = self._rounds.count
        frames, self._frames = self._frames[:MOST_FRAMES], self._frames[MOST_FRAMES:]
        self._waiting -= sum(map(len, frames))
        self._sent_since = self._since
        self._number += 1
        self._sent = AppendRequest(
            self.path,
            self.row.media_type if frames else None,
            frames,
            close=self._closing and not self._frames and not self.noting,
            stream_seq=f"{self._number:016}",
        )
        self._tries = 0
        return self._sent, self._settle

    def _settle_down(self) -> None:
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    def _submit(self) -> None:
        """Sends it again."""
        assert self._sent is not None, "it is there until its outcome is known"
        if self.over:
            return
        try:
            self._log.submit(self._sent, self._settle)
        except TooManyPending:
            self._loop.call_later(AGAIN[-1], self._submit)

    def _settle(self, outcome: Appended | ProtocolError) -> None:
        sent = self._sent
        assert sent is not None, "there is one outcome of each"
        self._rounds.landed(self._round)
        if isinstance(outcome, TooManyPending):
            self._loop.call_later(AGAIN[-1], self._submit)
            return
        applied = isinstance(outcome, Appended) or (isinstance(outcome, StreamSeqConflict) and self._tries > 0)
        if not applied and isinstance(outcome, Unavailable):
            self._loop.call_later(AGAIN[min(self._tries, len(AGAIN) - 1)], self._submit)
            self._tries += 1
            return
        self._sent = None
        if not applied:
            assert isinstance(outcome, ProtocolError)
            self._ended_elsewhere(outcome)
            return
        self._counts.frames += len(sent.events)
        self._counts.bytes += sum(map(len, sent.events))
        now = self._signed = time.monotonic()
        if sent.events:
            self._counts.delay.observe(now - self._sent_since)
        if sent.close:
            self._finish()
            return
        if isinstance(outcome, Appended) and outcome.cancel_requested:
            self.stop()
        self._send()
        if self._answer is not None and self._waiting <= MOST_WAITING:
            self._answer.go_on()

    def _ended_elsewhere(self, error: ProtocolError) -> None:
        if not self.over and not self._closing and self._fault is None:
            logger.warning("Run %s is recorded no further: %s", shown(self.path), error.message)
        self.let_go()

    def _lost(self, reason: str) -> None:
        self._counts.ended["lost"] += 1
        logger.warning("Run %s is lost: %s.", shown(self.path), reason)

    async def _lose(self, reason: str) -> None:
        """Hands the run over, or ends it in the database, however long that takes."""
        tries = 0
        while True:
            try:
                if self._handing:
                    if await self._store.hand_over(self.stream, self.generation):
                        logger.info("Run %s is left to another Machine: %s.", shown(self.path), reason)
                        self._finish()
                        return
                    self._handing = False
                    self._lost(reason)
                news = await self._store.lose(self.path, reason, self.generation)
            except Unavailable:
                await asyncio.sleep(AGAIN[min(tries, len(AGAIN) - 1)])
                tries += 1
            else:
                break
        if news is not None:
            self._feed.committed(news)
        self._finish()

    def _finish(self) -> None:
        if not self.over:
            self.over = True
            self._settle_down()
            self._done(self)
