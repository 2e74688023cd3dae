"""The tails of all streams that are followed on this Machine, and the clock that they share.

News moves a tail at once when it fits the tail's position exactly; any gap is filled by one read for everybody. A
sweep compares all tails with the log, so that a lost notification makes readers late and never wrong (law 2).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from gateway.counting import SECONDS, Histogram
from gateway.fanout.tail import Tail
from gateway.protocol import frames
from gateway.protocol.batch import Batch, News, Page, after
from gateway.protocol.cursor import cursor
from gateway.protocol.errors import ProtocolError, StreamGone, StreamNotFound
from gateway.protocol.offset import format_offset

if TYPE_CHECKING:
    from gateway.fanout.follower import Follower

logger = logging.getLogger("gateway.fanout.hub")

TICK: Final = 0.25  # seconds: how exactly heartbeats and maximum ages are kept
DRAIN_RATE: Final = 500  # followers a second that a drain ends, when its time allows
# Seconds that whoever has just come is left in peace: to @durable-streams/client three connections in a row that end
# within one second are an end, and it says nothing of it.
SETTLED: Final = 1.1
_HEARTBEAT: Final = frames.chunk(frames.HEARTBEAT)

RECENT: Final = 16 << 10  # bytes before its position that the first reader of a tail fetches for all who come with it
ROUNDS: Final = 2  # of others' first reads that a newcomer waits for

Positions = Callable[[Iterable[str]], Awaitable[dict[str, tuple[int, int, bool]]]]
Published = Callable[[str, int, int, int], None]
"""Is told the path, the start, the end and the readers of a batch that was written to followers' sockets."""
Touch = Callable[[Iterable[str]], Awaitable[None]]


class Read(Protocol):
    """A page for followers; one close to the tail begins up to `recent` bytes before the position."""

    async def __call__(self, path: str, position: int, *, last_events: int | None = None, recent: int = 0) -> Page: ...


class Hub:
    """All tails of a Machine. `read`, `positions` and `touch` ask the log.

    `now` gives seconds since 1970, for cursors; `clock` monotonic seconds, for everything that is measured. `offset`
    writes positions as the readers of this log know them.
    """

    def __init__(
        self,
        *,
        read: Read,
        positions: Positions,
        touch: Touch,
        now: Callable[[], float],
        clock: Callable[[], float],
        heartbeat: float,
        sweep_interval: Callable[[], float],
        offset: Callable[[int], bytes] = format_offset,
    ) -> None:
        self.tails: dict[str, Tail] = {}
        self.draining = False
        self._drained_at = 0.0
        self.joined = 0  # reads of the log that somebody else had begun
        self.remembered = 0  # readers that needed none
        self.missed = 0  # times that the sweep found what no news had told of
        self.delivered = 0  # frames written to sockets
        self.published: Published | None = None
        self.delivery_seconds = Histogram(SECONDS)  # from hearing of a commit to having written it to all sockets
        self._read = read
        self._positions = positions
        self._touch = touch
        self._now = now
        self._clock = clock
        self._heartbeat = heartbeat
        self._sweep_interval = sweep_interval
        self._offset = offset
        self._deadlines: dict[int, set[Follower]] = {}
        self._last_tick = int(clock() / TICK)
        self._cursor = cursor(now(), None, 0)  # of this tick
        self._reading: dict[tuple[str, int], asyncio.Task[Page]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._look = asyncio.Event()

    @property
    def followers(self) -> dict[str, int]:
        """Readers that follow their tail, and those that are catching up: on their way to it, or slow."""
        open = sum(tail.users for tail in self.tails.values())
        following = sum(len(tail.direct) + len(tail.waiting) for tail in self.tails.values())
        return {"following": following, "catching_up": open - following}

    # Following

    def follow(self, path: str) -> Tail:
        """The tail of a stream, kept until `unfollow`. Comes before the first read of the log (law 4)."""
        tail = self.tails.get(path)
        if tail is None:
            tail = self.tails[path] = Tail(path, self._clock(), self._offset)
        tail.users += 1
        return tail

    def unfollow(self, tail: Tail) -> None:
        tail.users -= 1
        if not tail.users and self.tails.get(tail.path) is tail:
            del self.tails[tail.path]

    async def enter(self, tail: Tail, position: int) -> Page:
        """The first page of a reader: from memory where its stream is followed here already, else from the log.

        The first reader of a tail fetches a little more, and whoever comes meanwhile waits for that: a thousand that
        come back at once cost a read or two.
        """
        for _ in range(ROUNDS):
            if tail.opening is not None:
                await asyncio.wait((tail.opening,))
        page = tail.remembered(position)
        if page is not None:
            self.remembered += 1
            return page
        if tail.position is None and tail.opening is None:
            page = await self._open(tail, position)
        else:
            page = await self.read(tail.path, position)
            self.observe(tail, page)
        rest = after(page.stream.encoding, page.batch, position)
        assert rest is not None, "a page that begins earlier reaches the position that it was asked for"
        return Page(page.stream, rest)

    async def enter_last(self, tail: Tail, last_events: int) -> Page:
        """The same for a reader that begins so many events before the tail."""
        page = await self._read(tail.path, 0, last_events=last_events)
        self.observe(tail, page)
        return page

    async def _open(self, tail: Tail, position: int) -> Page:
        async def read() -> Page:
            try:
                page = await self._read(tail.path, position, recent=RECENT)
                self.observe(tail, page)  # before those who wait for it look
                return page
            finally:
                tail.opening = None

        tail.opening = asyncio.ensure_future(read())
        tail.opening.add_done_callback(_told)
        return await asyncio.shield(tail.opening)

    async def read(self, path: str, position: int, *, fresh: bool = False) -> Page:
        """A page of the log; readers that ask for the same one at once share it.

        `fresh`: not one that began before this call, and so may not see what this call was made for.
        """
        key = (path, position)
        task = self._reading.get(key)
        if task is None or fresh:
            task = self._reading[key] = asyncio.ensure_future(self._read(path, position))
            task.add_done_callback(lambda done: self._read_ended(key, done))
        else:
            self.joined += 1
        return await asyncio.shield(task)

    def _read_ended(self, key: tuple[str, int], task: asyncio.Task[Page]) -> None:
        if self._reading.get(key) is task:
            del self._reading[key]
        _told(task)

    def observe(self, tail: Tail, page: Page) -> None:
        """What a follower has read: the first read to reach the end of the log gives the tail its position."""
        if tail.stream is None:
            tail.take(page.stream)
        elif tail.stream.id != page.stream.id:
            self._drop(tail)  # another stream at the same path: its positions mean something else
            return
        batch = page.batch
        if not batch.up_to_date:
            return
        if batch.start > page.stream.tail:  # a reader ahead of the log moves nobody but itself
            batch = Batch(page.stream.tail, page.stream.tail, b"", True, page.stream.closed)
        if tail.position is None:
            tail.position = batch.start
            self._publish(tail, batch)
            self._catch_up(tail)
            if tail.wanted > tail.position and not tail.closed:
                self._fill(tail)
        elif batch.end > tail.position or (batch.closed and not tail.closed):
            self._want(tail, batch.end)

    def cursor(self, tail: Tail, client: int | None = None) -> int:
        """The cursor for whoever follows this tail: always ahead of every cursor that one of them came with."""
        if client is not None:
            tail.cursor_floor = max(tail.cursor_floor, cursor(self._now(), client, random.random()))
        return max(self._cursor, tail.cursor_floor)

    # News

    def ring(self, news: News) -> None:
        """Hears that a stream has changed; costs a look-up when nobody follows it here."""
        tail = self.tails.get(news.path)
        if tail is None:
            return
        if news.deleted:
            self._drop(tail)
        elif tail.position is None or tail.filling:
            tail.expect(news)
        elif news.last < tail.position or (news.last == tail.position and (tail.closed or not news.closed)):
            return  # known already
        elif news.first == tail.position + 1 and news.body is not None:
            self._publish(tail, Batch(tail.position, news.last, news.body, True, news.closed), news.heard)
        else:
            tail.heard = tail.heard or news.heard
            self._want(tail, news.last)

    def _publish(self, tail: Tail, batch: Batch, heard: float = 0.0) -> None:
        now = self._clock()
        direct = len(tail.direct)
        tail.publish(batch, self.cursor(tail), now)
        if direct:
            self.delivered += direct
            if self.published is not None:
                self.published(tail.path, batch.start, batch.end, direct)
            if heard:
                self.delivery_seconds.observe(self._clock() - heard)

    def _catch_up(self, tail: Tail) -> None:
        """News that came while the log was read, as far as it goes on from there."""
        while not tail.closed and (news := tail.due()) is not None:
            assert tail.position is not None and news.body is not None
            self._publish(tail, Batch(tail.position, news.last, news.body, True, news.closed), news.heard)

    def look_again(self, paths: Iterable[str] | None = None) -> None:
        """Compares tails with the log: after the listener was away, or when a write's outcome is unknown."""
        if paths is None:
            self._look.set()
            return
        for path in paths:
            tail = self.tails.get(path)
            if tail is not None and tail.position is not None:
                self._fill(tail)

    def _want(self, tail: Tail, position: int) -> None:
        tail.wanted = max(tail.wanted, position)
        self._fill(tail)

    def _fill(self, tail: Tail) -> None:
        if not tail.filling:
            tail.filling = True
            self._spawn(self._read_up(tail))

    async def _read_up(self, tail: Tail) -> None:
        """Reads on from where the tail stands, for everybody, until it stands at the end of the log."""
        try:
            while not tail.closed and not tail.ended and tail.users:
                assert tail.position is not None and tail.stream is not None
                wanted = tail.wanted
                page = await self.read(tail.path, tail.position, fresh=True)
                if page.stream.id != tail.stream.id:
                    self._drop(tail)
                    return
                if page.batch.start == tail.position and (not page.batch.empty or page.batch.closed):
                    self._publish(tail, page.batch, tail.heard)
                    tail.heard = 0.0
                self._catch_up(tail)
                if page.batch.up_to_date and tail.wanted <= max(wanted, tail.position):
                    tail.wanted = 0  # what was promised and is not there was a hint from elsewhere
                    return
        except (StreamNotFound, StreamGone):
            self._drop(tail)
        except ProtocolError:
            logger.warning("The log cannot be read; followers of a stream wait for the next sweep.")
        finally:
            tail.filling = False
            tail.early.clear()

    def _drop(self, tail: Tail) -> None:
        if self.tails.get(tail.path) is tail:
            del self.tails[tail.path]
        tail.finish()

    # The clock

    def schedule(self, follower: Follower, after: float) -> int:
        """Ends a follower in `after` seconds; returns what `unschedule` takes."""
        slot = int((self._clock() + after) / TICK) + 1
        self._deadlines.setdefault(slot, set()).add(follower)
        return slot

    def unschedule(self, follower: Follower, slot: int) -> None:
        followers = self._deadlines.get(slot)
        if followers is not None:
            followers.discard(follower)

    def drain(self, over: float) -> None:
        """Ends all followers, in random order, spread over as long as their number asks for, at most `over` seconds.

        They all come back somewhere else: a few hundred a second is what another Machine takes in its stride.
        """
        self.draining = True
        self._drained_at = self._clock() + over
        followers = [follower for slot in self._deadlines.values() for follower in slot]
        self._deadlines.clear()
        first = min(over, SETTLED)
        spread = min(over - first, len(followers) / DRAIN_RATE)
        for follower in followers:
            follower.slot = self.schedule(follower, first + random.uniform(0, spread))

    def time_for(self, wanted: float) -> float:
        """Seconds of those asked for that a follower may stay, for one that comes to a Machine that is draining."""
        return min(wanted, SETTLED, max(0.0, self._drained_at - self._clock())) if self.draining else wanted

    @property
    def drained(self) -> bool:
        """Whether nobody may follow any more."""
        return self.draining and self._clock() >= self._drained_at

    async def run(self) -> None:
        """The one timer, and the sweep. Runs until cancelled."""
        sweeping = self._spawn(self._sweep_forever())
        try:
            while True:
                await asyncio.sleep(TICK)
                self.tick()
        finally:
            sweeping.cancel()
            for task in tuple(self._tasks):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def tick(self) -> None:
        """Ends whoever is due, and says to the silent that somebody is there."""
        now = self._clock()
        self._cursor = cursor(self._now(), None, 0)
        this = int(now / TICK)
        for slot in range(self._last_tick + 1, this + 1):
            for follower in self._deadlines.pop(slot, ()):
                follower.end()
        self._last_tick = this
        silent = now - self._heartbeat
        for tail in self.tails.values():
            if tail.quiet_since <= silent:
                tail.quiet_since = now
                tail.write(_HEARTBEAT)
                for follower in tuple(tail.waiting):
                    follower.beat()

    async def _sweep_forever(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), self._sweep_interval())
            self._look.clear()
            try:
                await self.sweep()
            except ProtocolError:
                logger.warning("The sweep cannot read the log.")

    async def sweep(self) -> None:
        """Compares every open tail with the log: lost news makes readers late, never wrong. Raises Unavailable."""
        tails = [tail for tail in self.tails.values() if tail.position is not None and not tail.closed]
        if not tails:
            return
        alive = [tail.path for tail in tails if tail.stream is not None and tail.stream.ttl is not None]
        if alive:
            await self._touch(alive)  # a stream with live readers does not expire (§5.1)
        known = await self._positions([tail.path for tail in tails])
        for tail in tails:
            assert tail.stream is not None and tail.position is not None
            id, last, closed = known.get(tail.path, (None, 0, False))
            if id != tail.stream.id:
                self._drop(tail)
            elif last > tail.position or (closed and not tail.closed):
                self.missed += not tail.filling
                self._want(tail, last)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _told(task: asyncio.Task[Page]) -> None:
    if not task.cancelled():
        task.exception()  # whoever awaits it is told; if nobody does any more, nobody need be
