"""Group commit: all requests that wait become one CALL, one transaction, one round trip.

The database judges every request on its own; here they are only gathered, in order, and told their outcome. One
stream stands at most once in a batch, and in one batch at a time: that keeps the order of a stream's requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import cached_property
from typing import Final

import asyncpg

from gateway.counting import SECONDS, SIZES, Histogram
from gateway.log.appends import (
    CALL,
    CALL_ALONE,
    Appended,
    Entry,
    Row,
    Settle,
    Waiting,
    accepted_alone,
    arguments,
    arguments_alone,
    refusal,
)
from gateway.log.aside import Aside
from gateway.log.database import Database, Lane
from gateway.protocol.append import AppendRequest
from gateway.protocol.batch import News
from gateway.protocol.errors import NotWritable, ProtocolError, StreamHeld, TooManyPending, Unavailable

logger = logging.getLogger("gateway.log.writer")

_HELD: Final = "SELECT run_gateway.held($1) AS paths"
_MOST_REQUESTS: Final = 2_000  # in one batch
_MOST_BYTES: Final = 8 << 20
_PATIENCE: Final = 0.001  # seconds that requests gather behind a batch before another lane takes them

# Errors that the server reports before it commits: nothing was applied, so each request may be tried alone.
_DEFINITE: Final = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.TransactionRollbackError,
    asyncpg.SyntaxOrAccessError,
)


class Writer:
    """Appends of a Machine, on `lanes` connections of its own.

    `timeout`: seconds that the database has for a batch; then its outcome counts as unknown. `pack`: events that come
    in numbers may be written as pages.
    `machine` names this Machine to the others, or is None while there are none to be told. `on_commit` hears of every
    committed change, `on_doubt` of every unknown outcome.
    """

    def __init__(
        self,
        database: Database,
        *,
        machine: Callable[[], str | None],
        lanes: int,
        timeout: float,
        max_pending: int,
        pack: bool = True,
        on_commit: Callable[[News], None],
        on_doubt: Callable[[list[str]], None],
    ) -> None:
        self.outcomes: Counter[str] = Counter()  # of requests: appended, duplicate, refused, unknown
        self.events = 0
        self.bytes = 0
        self.commit_requests = Histogram(SIZES)
        self.commit_seconds = Histogram(SECONDS)
        self._machine = machine
        self._max_pending = max_pending
        self._pack = pack
        self._on_commit = on_commit
        self._on_doubt = on_doubt
        self._queue: deque[Waiting] = deque()
        self._queued_bytes = 0
        self._busy: set[str] = set()
        self._aside: Aside[Entry] = Aside(held=self._held, free=self._go_on, over=self._give_up, patience=timeout)
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
        """Of requests that no batch has taken yet."""
        return self._queued_bytes

    async def append(self, request: AppendRequest) -> Appended:
        """Appends, closes, or both; returns once it is durable.

        Raises what the protocol has for a refusal (StreamNotFound, StreamClosed, StaleEpoch, …), TooManyPending
        when the database does not keep up, Unavailable when the outcome is unknown.
        """
        told: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

        def settle(outcome: Appended | ProtocolError) -> None:
            if told.done():
                return  # whoever asked has gone; what was committed stays committed
            if isinstance(outcome, ProtocolError):
                told.set_exception(outcome)
            else:
                told.set_result(outcome)

        self.submit(request, settle)
        return await told

    def submit(self, request: AppendRequest, settle: Settle) -> None:
        """Takes a request; `settle` is called with its outcome, what `append` would return or raise.

        Raises TooManyPending at once.
        """
        if self._queued_bytes > self._max_pending:
            self.outcomes["refused"] += 1
            raise TooManyPending
        waiting = Waiting(request, settle)
        self._queue.append(waiting)
        self._queued_bytes += waiting.size
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
        for lane in self._free:
            await lane.close()

    def _flush(self) -> None:
        """Sends off what may go, as one batch; and what is left then, should it take long, on another lane."""
        if self._flush_at is not None:
            self._flush_at.cancel()
            self._flush_at = None
        entries = self._gather()
        if not entries:
            return
        task = self._loop.create_task(self._commit(entries, self._free.pop()))
        self._landing.add(task)
        task.add_done_callback(self._landing.discard)
        if self._queue and self._free:
            self._flush_at = self._loop.call_later(_PATIENCE, self._flush)

    def _gather(self) -> dict[str, Entry]:
        """Takes from the queue what may go together; what may not stays, in order."""
        entries: dict[str, Entry] = {}
        rest: deque[Waiting] = deque()
        blocked: set[str] = set()
        size = count = 0
        queue = self._queue
        while queue:
            if count >= _MOST_REQUESTS or size >= _MOST_BYTES:
                break
            waiting = queue.popleft()
            request = waiting.request
            path = request.path
            if path in self._busy or path in blocked:
                rest.append(waiting)
                continue
            entry = entries.get(path)
            if entry is None:
                entries[path] = Entry([waiting], request.events)
            elif entry.takes(request):
                if len(entry.waiting) == 1:
                    entry.events = list(entry.events)
                entry.waiting.append(waiting)
                entry.events += request.events
            else:
                blocked.add(path)
                rest.append(waiting)
                continue
            count += 1
            size += waiting.size
            self._queued_bytes -= waiting.size
        rest.extend(queue)
        self._queue = rest
        if count:
            self._crowd = count
        self._busy.update(entries)
        return dict(sorted(entries.items()))  # the order in which every batch locks its streams

    async def _commit(self, entries: dict[str, Entry], lane: Lane) -> None:
        """One batch, from its call to its outcomes; then the lane is free for the next.

        What is put aside meanwhile leaves `entries`: by the end it may be in a batch of its own, or told.
        """
        try:
            await self._call(entries, lane)
        except Exception:
            logger.exception("A batch of appends failed unexpectedly.")
            self._doubt(entries, Unavailable())
        except asyncio.CancelledError:
            self._doubt(entries, Unavailable())
            raise
        finally:
            self._busy.difference_update(entries)
            self._aside.settled(entries)
            self._free.append(lane)
            if self._queue:
                self._flush()
            elif not self._busy:
                self._empty.set()

    async def _call(self, entries: dict[str, Entry], lane: Lane, *, again: bool = False) -> None:
        machine = self._machine()
        began = time.monotonic()
        try:
            row = await self._ask(entries, lane, machine)
        except NotWritable as error:
            if not self._refused:
                self._refused = True
                logger.warning("The database takes no writes (%s); appends are answered 503.", error.__cause__)
            self._fail(entries, error, "refused")
        except StreamHeld:
            await self._part(entries, lane, all_held=again)
        except Unavailable as error:
            if not isinstance(error.__cause__, _DEFINITE):
                self._doubt(entries, error)
            elif len(entries) > 1:
                for path in tuple(entries):  # one request's fault never fails its neighbours
                    alone = {path: entries.pop(path)}
                    try:
                        await self._call(alone, lane)
                    finally:
                        entries.update(alone)
            else:
                logger.error("An append failed in the database.", exc_info=error.__cause__)
                self._fail(entries, error, "refused")
        else:
            landed = time.monotonic()
            if self._refused:
                self._refused = False
                logger.warning("The database takes writes again.")
            self.commit_seconds.observe(landed - began)
            if self._queue and self._free:
                # The database has nothing to do now: first the next batch, and then, while it works, everyone is told.
                self._flush()
                await asyncio.sleep(0)
            self._tell(entries, row, landed)

    async def _ask(self, entries: dict[str, Entry], lane: Lane, machine: str | None) -> Row:
        told = machine is not None
        alone = arguments_alone(entries, told=told, pack=self._pack)
        if alone is not None:
            row = await lane.fetchrow(CALL_ALONE, machine, *alone)
            if row["tail"] is not None:
                return accepted_alone(row)
        return await lane.fetchrow(CALL, machine, *arguments(entries, told=told, pack=self._pack))

    async def _part(self, entries: dict[str, Entry], lane: Lane, *, all_held: bool) -> None:
        """Somebody holds a stream's row, and nothing was applied: the others go on, without it."""
        try:
            held = set(entries) if all_held else set((await lane.fetchrow(_HELD, list(entries)))["paths"])
        except StreamHeld:
            held = set(entries)  # the whole table
        except Unavailable as error:
            self._doubt(entries, error)
            return
        for path in held:
            entry = entries.pop(path)
            self._queued_bytes += sum(waiting.size for waiting in entry.waiting)
            self._aside.put(path, entry)
        if entries:
            await self._call(entries, lane, again=True)

    async def _held(self, paths: list[str]) -> list[str]:
        async with self._database.acquire() as connection:
            held: list[str] = await connection.fetchval(_HELD, paths)
        return held

    def _go_on(self, path: str, entry: Entry) -> None:
        """A row that was held is free: those who wait for it go before all who came later."""
        self._busy.discard(path)
        self._queue.extendleft(reversed(entry.waiting))
        if self._flush_at is None and self._free:
            self._flush()

    def _give_up(self, path: str, entry: Entry) -> None:
        """A row is held for longer than anybody who writes to it can wait."""
        entry.waiting += [waiting for waiting in self._queue if waiting.request.path == path]
        self._queue = deque(waiting for waiting in self._queue if waiting.request.path != path)
        self._queued_bytes -= sum(waiting.size for waiting in entry.waiting)
        logger.warning("Another transaction holds the row of a stream; its appends are answered 503.")
        self._fail({path: entry}, StreamHeld(), "refused")
        self._busy.discard(path)
        if not self._queue and not self._busy:
            self._empty.set()

    def _doubt(self, entries: dict[str, Entry], error: Unavailable) -> None:
        self._fail(entries, error, "unknown")
        self._on_doubt(list(entries))

    def _fail(self, entries: dict[str, Entry], error: ProtocolError, outcome: str) -> None:
        for entry in entries.values():
            self.outcomes[outcome] += len(entry.waiting)
            for waiting in entry.waiting:
                waiting.settle(error)

    def _tell(self, entries: dict[str, Entry], row: Row, landed: float) -> None:
        told = 0
        columns = zip(
            entries.items(),
            row["verdicts"],
            row["tails"],
            row["closed"],
            row["known_epochs"],
            row["known_seqs"],
            row["cancels"],
            strict=True,
        )
        for (path, entry), verdict, tail, closed, epoch, seq, cancel in columns:
            told += len(entry.waiting)
            if verdict == "appended":
                base = tail - len(entry.events)
                body = entry.body
                self.outcomes["appended"] += len(entry.waiting)
                self.events += len(entry.events)
                self.bytes += len(body)
                # Readers here are told before the writer is: both are durable, and a reader is never behind.
                if entry.events or closed:
                    self._on_commit(News(path, base + 1, tail, closed, body=body, heard=landed))
                for waiting in entry.waiting:
                    base += len(waiting.request.events)
                    waiting.settle(Appended(base, False, closed, epoch, seq, cancel))
            elif verdict == "duplicate":
                self.outcomes["duplicate"] += len(entry.waiting)
                for waiting in entry.waiting:
                    waiting.settle(Appended(tail, True, closed, epoch, seq, cancel))
            else:
                self.outcomes["refused"] += len(entry.waiting)
                for waiting in entry.waiting:
                    waiting.settle(refusal(verdict, waiting.request, tail, epoch, seq))
        self.commit_requests.observe(told)
