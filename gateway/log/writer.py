"""Group commit: all requests that wait become one CALL, one transaction, one round trip.

The database judges every request on its own; here they are only gathered, in order, and given their outcome. One stream
stands at most once in a batch, and in one batch at a time: that keeps the order of a stream's requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Final, NamedTuple, Protocol

import asyncpg

from gateway.counting import SECONDS, SIZES, Histogram
from gateway.feed import Feed
from gateway.log.appends import (
    CALL,
    CALL_LARGE,
    Appended,
    Entry,
    Row,
    Settle,
    Waiting,
    accepted_alone,
    arguments,
    asked_alone,
    is_large,
    large_arguments,
    refusal,
)
from gateway.log.connect import Unconfirmed
from gateway.log.database import Database
from gateway.log.held_rows import HeldRows
from gateway.log.lane import Lane
from gateway.log.queue import Queue
from gateway.protocol.append import AppendRequest
from gateway.protocol.batch import LINE, News
from gateway.protocol.errors import NotSent, NotWritable, ProtocolError, StreamHeld, TooManyPending, Unavailable

logger = logging.getLogger("gateway.log.writer")

_HELD: Final = "SELECT run_gateway.held($1, $2, $3) AS paths"
TOLD: Final = 256  # outcomes that are told in one turn of the loop
_ALONE: Final = nullcontext()
_PATIENCE: Final = 0.001  # seconds that requests gather behind a batch before another lane takes them
_MANY: Final = 1_000  # events of one stream in a batch, from which on they are joined in a turn of the loop by itself
_GRAIN: Final = 0.05  # seconds between two looks for requests that were to be sent by now

# Errors that the server reports before it commits: nothing was applied, so each request may be tried alone.
_DEFINITE: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.TransactionRollbackError,
    asyncpg.SyntaxOrAccessError,
)


def _told(future: asyncio.Future[Appended], outcome: Appended | ProtocolError) -> None:
    if future.done():
        return  # the request was cancelled; what was committed stays committed
    if isinstance(outcome, ProtocolError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


Verdict = tuple[tuple[str, Entry], str, int, bool, int | None, int | None, bool]
"""A path and its entry; then, as the database has judged them: verdict, tail, closed, known epoch and seq, cancel."""


class Part(NamedTuple):
    """A part of a batch that is to be sent again. `without_held`: held rows have left it already."""

    entries: dict[str, Entry]
    without_held: bool = False


class Others(Protocol):
    """The other Machines, as far as appends need to know of them: `Machines` of `gateway.log.machines`."""

    @property
    def notified_by(self) -> str | None:
        """This Machine's name in its notifications; None: there is no other Machine to notify."""

    @property
    def together(self) -> bool:
        """True if all of them read notifications of several streams."""


class Writer:
    """Appends of a Machine, on `lanes` connections of its own.

    `timeout`: seconds within which a request is sent to the database, or else refused; and as many that the database
    has for a batch, whose outcome counts as unknown then. `pack`: events that come in numbers may be written as pages.
    `feed` is given every committed change, and every unknown outcome.
    """

    def __init__(
        self,
        database: Database,
        *,
        others: Others,
        lanes: int,
        timeout: float,
        max_pending: int,
        pack: bool = True,
        feed: Feed,
    ) -> None:
        self.outcomes: Counter[str] = Counter()  # of requests: appended, duplicate, refused, unknown
        self.events = 0
        self.bytes = 0
        self.commit_requests = Histogram(SIZES)
        self.commit_seconds = Histogram(SECONDS)
        self._others = others
        self._max_pending = max_pending
        self._pack = pack
        self._feed = feed
        self._queue = Queue()
        self._timeout = timeout
        self._watch: asyncio.TimerHandle | None = None  # looks for requests that were to be sent by now
        self._held_rows = HeldRows(waits=lambda: self._queue.held, held=self._held, free=self._go_on)
        self._database = database
        self._free = [database.lane(timeout) for _ in range(lanes)]
        self._landing: set[asyncio.Task[None]] = set()
        self._lanes = lanes
        self._flush_at: asyncio.Handle | None = None
        self._refused = False  # the database takes no writes
        self._crowd = 0  # requests of the last batch: whether it pays to wait for company
        self._empty = asyncio.Event()
        self._empty.set()

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    @property
    def pending_bytes(self) -> int:
        """Bytes of requests that no batch has taken yet."""
        return self._queue.bytes

    async def append(self, request: AppendRequest) -> Appended:
        """Appends, closes, or both; returns once it is durable.

        Raises what the protocol has for a refusal (StreamNotFound, StreamClosed, StaleEpoch, …), TooManyPending
        when the database does not keep up, NotSent when it could not be sent in time, Unavailable when the outcome is
        unknown.
        """
        told: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self.submit(request, partial(_told, told))
        try:
            return await told
        finally:
            del told  # or a refusal, which knows this frame, would know itself

    def submit(self, request: AppendRequest, settle: Settle) -> None:
        """Takes a request; `settle` is called with its outcome, what `append` would return or raise.

        Raises TooManyPending instead of taking it.
        """
        if self._queue.bytes > self._max_pending:
            self.outcomes["refused"] += 1
            raise TooManyPending
        self._queue.put(Waiting(request, settle, self._loop.time() + self._timeout))
        self._taken()

    def submit_together(self, requests: Sequence[tuple[AppendRequest, Settle]]) -> None:
        """Takes requests like `submit`, for one batch as far as it holds them. What there is no room for is settled
        with TooManyPending.
        """
        until, queue, taken = self._loop.time() + self._timeout, self._queue, False
        for request, settle in requests:
            if queue.bytes > self._max_pending:
                self.outcomes["refused"] += 1
                settle(TooManyPending())
            else:
                queue.put(Waiting(request, settle, until))
                taken = True
        if taken:
            self._taken()

    def _taken(self) -> None:
        """Requests have been taken: sends them off, or has them wait for company."""
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._expire)
        self._empty.clear()
        if self._flush_at is None and self._free:
            if len(self._free) < self._lanes:  # a batch is under way: others gather behind it, unless it takes long
                self._flush_at = self._loop.call_later(_PATIENCE, self._flush)
            elif self._crowd > 1:
                self._flush_at = self._loop.call_soon(self._flush)  # after the other requests of this turn of the loop
            else:
                self._flush()  # alone, and lately always so: nobody to wait for

    async def close(self) -> None:
        """Waits for everything that was taken."""
        await self._empty.wait()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for lane in self._free:
            await lane.close()

    def _flush(self) -> None:
        """Sends off what may go, as one batch; and what is left then, should it take long, on another lane."""
        if self._flush_at is not None:
            self._flush_at.cancel()
            self._flush_at = None
        batch = self._queue.take()
        if not batch:
            return
        self._crowd = self._queue.taken
        task = self._loop.create_task(self._commit(batch, self._free.pop()))
        self._landing.add(task)
        task.add_done_callback(self._landing.discard)
        if self._queue.ready and self._free:
            self._flush_at = self._loop.call_later(_PATIENCE, self._flush)

    async def _commit(self, batch: dict[str, Entry], lane: Lane) -> None:
        """Sends a batch and answers its requests; then the lane is free for the next.

        A call of which nothing was applied is made again with a part of it. What waits for a row meanwhile is back in
        the queue, and may be in another batch before this one ends.
        """
        try:
            parts = await self._call(batch, lane)
            while parts:
                entries, without_held = parts.pop(0)
                if self._in_time(entries):
                    parts += await self._call(entries, lane, without_held=without_held)
        except Exception:
            logger.exception(
                "A batch of appends failed unexpectedly; its requests are answered 503, and their outcome is unknown."
            )
            self._doubt(self._queue.under_way(batch), Unavailable())
        except asyncio.CancelledError:
            self._doubt(self._queue.under_way(batch), Unavailable())
            raise
        finally:
            self._queue.settled(batch)
            self._free.append(lane)
            self._go()

    def _in_time(self, entries: dict[str, Entry]) -> bool:
        """True if one of the entries may still be sent again; otherwise all are refused."""
        now = self._loop.time()
        if any(entry.waiting[0].until > now for entry in entries.values()):
            return True
        self._fail(entries, NotSent(), "refused")
        return False

    async def _call(self, entries: dict[str, Entry], lane: Lane, *, without_held: bool = False) -> list[Part]:
        """Sends a part of a batch and answers its requests. Returns the parts to send again: nothing of them was
        applied.

        `without_held`: held rows have left the part already.
        """
        began = time.monotonic()
        try:
            row = await self._ask(entries, lane, self._others.notified_by)
        except StreamHeld:
            return await self._without_held(entries, lane, all_held=without_held)
        except (NotSent, NotWritable) as error:
            self._refuse(entries, error)
        except Unavailable as error:
            if not isinstance(error.__cause__, _DEFINITE):
                self._doubt(entries, error)
            elif len(entries) > 1:  # one request's fault never fails its neighbours
                return [Part({path: entry}) for path, entry in entries.items()]
            else:
                logger.error("An append failed in the database; it is answered 503.", exc_info=error.__cause__)
                self._fail(entries, error, "refused")
        else:
            landed = time.monotonic()
            if self._refused:
                self._refused = False
                logger.warning("The database takes writes again.")
            if self._queue.ready and self._free:
                # The database has nothing to do now: first the next batch, and then, while it works, everyone is told.
                self._flush()
                await asyncio.sleep(0)
            await self._tell(entries, row, landed)
            self.commit_seconds.observe(landed - began)
        return []

    async def _ask(self, entries: dict[str, Entry], lane: Lane, machine: str | None) -> Row:
        for entry in entries.values():
            if len(entry.events) > _MANY and entry.body:  # joined in a turn of its own, and kept
                await asyncio.sleep(0)
        alone = asked_alone(entries, machine, pack=self._pack)
        if alone is not None:
            row = await lane.fetchrow(*alone)
            if row["tail"] is not None:
                return accepted_alone(row)
        arrays = arguments(entries, told=machine is not None, together=self._others.together, pack=self._pack)
        if not is_large(arrays):
            return await lane.fetchrow(CALL, machine, *arrays)
        await asyncio.sleep(0)
        arrays = large_arguments(arrays)
        await asyncio.sleep(0)
        return await lane.fetchrow(CALL_LARGE, machine, *arrays)

    async def _without_held(self, entries: dict[str, Entry], lane: Lane, *, all_held: bool) -> list[Part]:
        """Takes streams whose rows are held out of a batch of which nothing was applied. Returns the rest."""
        try:
            held = (
                set(entries)
                if all_held
                else set((await lane.fetchrow(_HELD, *self._waited_for(list(entries))))["paths"])
            )
        except StreamHeld:
            held = set(entries)  # the whole table
        except Unavailable:
            self._fail(entries, NotSent(), "refused")
            return []
        for path in held:
            self._queue.hold(path)
        if held:
            self._held_rows.watch()
        rest = {path: entry for path, entry in entries.items() if path not in held}
        return [Part(rest, without_held=True)] if rest else []

    async def _held(self, paths: list[str]) -> list[str]:
        async with self._database.acquire() as connection:
            held: list[str] = await connection.fetchval(_HELD, *self._waited_for(paths))
        return held

    def _waited_for(self, paths: list[str]) -> tuple[list[str], list[bool], list[bool]]:
        """The rows that some streams' next requests write to: whether each closes, and whether it has a lease."""
        requests = [self._queue.first(path) for path in paths]
        closes = [request is not None and request.close for request in requests]
        return paths, closes, [request is not None and request.lease is not None for request in requests]

    def _go_on(self, path: str) -> None:
        """Takes up a stream whose row is free again."""
        self._queue.release(path)
        if self._flush_at is None and self._free:
            self._flush()

    def _expire(self) -> None:
        """Refuses what could not be sent in time: nothing of it was applied."""
        late = self._queue.expire(self._loop.time())
        if any(held for _, held in late):
            logger.warning("Another transaction holds the row of a stream; its appends are answered 503.")
        if not all(held for _, held in late):
            logger.warning("The database does not keep up: appends that could not be sent in time are answered 503.")
        self.outcomes["refused"] += len(late)
        for waiting, held in late:
            waiting.settle(StreamHeld() if held else NotSent())
        earliest = self._queue.earliest()
        self._watch = None
        if earliest is not None:
            self._watch = self._loop.call_at(max(earliest, self._loop.time() + _GRAIN), self._expire)
        self._go()

    def _go(self) -> None:
        """Sends what has become ready."""
        if self._queue.ready and self._free:
            self._flush()
        elif self._queue.empty:
            self._empty.set()

    def _refuse(self, entries: dict[str, Entry], error: Unavailable) -> None:
        """Refuses requests of which the database has applied nothing, since it takes nothing at the moment."""
        if isinstance(error, NotWritable) and not self._refused:
            self._refused = True
            logger.warning("The database takes no writes (%s); appends are answered 503.", error.__cause__)
        self._fail(entries, error, "refused")

    def _doubt(self, entries: dict[str, Entry], error: Unavailable) -> None:
        self._fail(entries, error, "unknown")
        if not isinstance(error.__cause__, Unconfirmed):  # that is committed, and is not to be shown yet
            self._feed.doubted(list(entries))

    def _fail(self, entries: dict[str, Entry], error: ProtocolError, outcome: str) -> None:
        for entry in entries.values():
            self.outcomes[outcome] += len(entry.waiting)
            for waiting in entry.waiting:
                waiting.settle(error)

    async def _tell(self, entries: dict[str, Entry], row: Row, landed: float) -> None:
        """Answers all requests of a batch by the database's verdicts. The loop turns after every TOLD of them, for
        others wait.

        It does not turn after the last. Their streams are busy until this ends, so what comes in such a turn would be
        sent by itself, and not together with what comes in the next.
        """
        told = 0
        columns = (row[name] for name in ("verdicts", "tails", "closed", "known_epochs", "known_seqs", "cancels"))
        verdicts = list(zip(entries.items(), *columns, strict=True))
        for begin in range(0, len(verdicts), TOLD):
            part = verdicts[begin : begin + TOLD]
            # Readers here are told before the writer is: both are durable, and a reader is never behind.
            with self._feed.together() if len(part) > 1 else _ALONE:
                self._show(part, landed)
            outcomes = self._outcomes_of(part)
            for first in range(0, len(outcomes), TOLD):
                if told:
                    await asyncio.sleep(0)
                with self._feed.answering() if len(outcomes) > 1 else _ALONE:
                    for waiting, outcome in outcomes[first : first + TOLD]:
                        waiting.settle(outcome)
                        told += 1
        self.commit_requests.observe(told)

    def _show(self, verdicts: Sequence[Verdict], landed: float) -> None:
        """Counts what was appended, and tells readers of it."""
        news: list[News] = []
        events = size = 0
        for (path, entry), verdict, tail, closed, _, _, _ in verdicts:
            if verdict != "appended":
                continue
            body, count = entry.body, len(entry.events)
            events += count
            size += len(body)
            if count or closed:
                lengths = entry.lengths if len(body) > LINE else None
                news.append(News(path, tail - count + 1, tail, closed, False, body, landed, lengths))
        self.events += events
        self.bytes += size
        self._feed.committed.each(news)

    def _outcomes_of(self, verdicts: Sequence[Verdict]) -> list[tuple[Waiting, Appended | ProtocolError]]:
        """The outcome of each request; counts them."""
        outcomes: list[tuple[Waiting, Appended | ProtocolError]] = []
        appended = 0
        for (path, entry), verdict, tail, closed, epoch, seq, cancel in verdicts:
            if verdict == "appended":
                base = tail - len(entry.events)
                for waiting in entry.waiting:
                    base += len(waiting.request.events)
                    outcomes.append((waiting, Appended(base, False, closed, epoch, seq, cancel)))
                appended += len(entry.waiting)
                continue
            if tail is not None:
                self._feed.stood(path, tail, closed)
            duplicate = verdict == "duplicate"
            self.outcomes["duplicate" if duplicate else "refused"] += len(entry.waiting)
            for waiting in entry.waiting:
                outcome = (
                    Appended(tail, True, closed, epoch, seq, cancel)
                    if duplicate
                    else refusal(verdict, waiting.request, tail, epoch, seq)
                )
                outcomes.append((waiting, outcome))
        if appended:
            self.outcomes["appended"] += appended
        return outcomes
