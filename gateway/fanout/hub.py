"""The tails of all streams that are followed on this Machine, and the one timer that they share.

News moves a tail immediately when it begins exactly where the tail stands; any gap is filled by one read for all
followers. A sweep compares all tails with the log, so that a lost notification makes readers late and never wrong (law
2).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from gateway.counting import SECONDS, Histogram
from gateway.fanout.broadcast import Broadcast
from gateway.fanout.comparison import Comparison, Positions
from gateway.fanout.crowd import END, WAKE, tell
from gateway.fanout.deadlines import TICK, Deadlines
from gateway.fanout.single_flight import Read, Shared, SharedReads
from gateway.fanout.tail import Tail
from gateway.outage import Outage, SeldomLogger
from gateway.protocol import frames
from gateway.protocol.batch import Batch, News, Page, Stream, after
from gateway.protocol.errors import OffsetGone, ProtocolError, StreamGone, StreamNotFound, Unavailable
from gateway.protocol.offset import cursor, format_offset
from gateway.tasks import end, forever, in_turns

logger = logging.getLogger("gateway.fanout.hub")
seldom_logger: Final = SeldomLogger(logger)

RECENT: Final = 16 << 10  # bytes before its position that the first reader of a tail fetches for all who come with it
KEEP: Final = 5.0  # seconds between touches of a stream that would expire; a third of its TTL, where that is less
BEATS: Final = 500  # tails that are sent a heartbeat in one turn of the loop
ROUNDS: Final = 2  # times that a new reader waits for a first read that is under way, before it reads for itself

_NOT_COUNTED: Final = "A batch was delivered, but counting or tracing it failed."

Touch = Callable[[Iterable[str]], Awaitable[None]]
"""Keeps streams from expiring, for they are being read (§5.1)."""

Published = Callable[[str, int, int, int], None]
"""Is called with the path, start and end of a batch that was written to followers' sockets, and their number."""


class Hub:
    """The tails of a Machine. `read`, `positions` and `touch` ask the log. `fresh`: reads of all that is committed;
    those by `read` may have no more than this Machine was told.

    `trusted`: true while a deletion at another Machine is heard of within milliseconds, so that new readers may begin
    from memory. `now` gives seconds since 1970, for cursors; `clock` monotonic seconds, for everything that is
    measured. `heartbeat` and `sweep_interval` are seconds. `offset` writes positions as the readers of this log know
    them. `broadcast` sends frames; without it they go to one follower
    after the other.
    """

    def __init__(
        self,
        *,
        read: Read,
        fresh: Read | None = None,
        positions: Positions,
        touch: Touch,
        now: Callable[[], float],
        clock: Callable[[], float],
        heartbeat: float,
        sweep_interval: Callable[[], float],
        trusted: Callable[[], bool] = lambda: True,
        offset: Callable[[int], bytes] = format_offset,
        broadcast: Broadcast | None = None,
        away: Outage | None = None,
    ) -> None:
        self.tails: dict[str, Tail] = {}
        self.broadcast: Final = broadcast or Broadcast()
        self.read: Final = SharedReads(read, fresh)
        self.deadlines: Final = Deadlines(clock)
        self.remembered = 0  # readers who began without a read of the log
        self.delivered = 0  # frames written to sockets
        self.delivery_seconds = Histogram(SECONDS)  # from hearing of a commit to having written it to all sockets
        self.published: Published | None = None
        self._delivering: dict[float, int] | None = None  # within `together`: how many streams' news, by when it came
        self._read_log = read
        self._touch = touch
        self._now = now
        self._clock = clock
        self._heartbeat = heartbeat
        self._sweep_interval = sweep_interval
        self._trusted = trusted
        self._offset = offset
        self._cursor = cursor(now(), None, 0)  # of this tick
        self._tasks: set[asyncio.Task[None]] = set()
        self._keep_at: dict[Tail, float] = {}  # tails of streams with a TTL, and when each is to be touched next
        self._look = asyncio.Event()
        self._outage = Outage(
            logger,
            "The log cannot be read (%r); followers wait until it can.",
            "The log can be read again.",
            within=away,
        )
        self.comparison: Final = Comparison(positions, behind=self._want, replaced=self._drop, outage=self._outage)

    @property
    def followers(self) -> dict[str, int]:
        """Readers that follow their tail, and those that are catching up: on their way to it, or slow."""
        open = sum(tail.users for tail in self.tails.values())
        following = sum(sum(map(len, tail.crowds)) + len(tail.waiting) for tail in self.tails.values())
        return {"following": following, "catching_up": open - following}

    def readers(self, path: str) -> int:
        """Live reads of one stream."""
        tail = self.tails.get(path)
        return 0 if tail is None else tail.users

    # Following

    def follow(self, path: str) -> Tail:
        """The tail of a stream, kept until `unfollow`. Comes before the first read of the log (law 4)."""
        tail = self.tails.get(path)
        if tail is None:
            tail = self.tails[path] = Tail(path, self._clock(), self._offset, self.broadcast)
        tail.users += 1
        return tail

    def unfollow(self, tail: Tail) -> None:
        tail.users -= 1
        if not tail.users:
            self._keep_at.pop(tail, None)
            if self.tails.get(tail.path) is tail:
                del self.tails[tail.path]

    async def enter(self, tail: Tail, position: int) -> Page:
        """The first page of a reader: from memory where its stream is followed here already, else from the log.

        The first reader of a tail fetches a little more than it asks for, and readers that come meanwhile wait for that
        read: a thousand readers that come back together cost a read or two. Raises what a read raises.
        """
        for _ in range(ROUNDS):
            if tail.opening is not None:
                await tail.opening.over()
        known = None if tail.doubted else tail.remembered(position)
        if known is not None and (self._trusted() or self._outage.lasts):
            self.remembered += 1
            return known
        if tail.position is None and tail.opening is None:
            page = await self._open(tail, position)
        else:
            try:
                page = await self.read(tail.path, position)
            except Unavailable:
                if known is None:
                    raise
                return known  # as long as the log cannot be asked, nothing better is known
            self.observe(tail, page)
        rest = after(page.stream.encoding, page.batch, position)
        assert rest is not None, "a page that begins earlier reaches the position that it was asked for"
        return Page(page.stream, rest)

    def made(self, tail: Tail, stream: Stream) -> None:
        """Takes note of a stream that was made after a reader here began to follow it: it held nothing then, and
        whatever has come since is in the news.
        """
        if tail.stream is None:
            self.observe(tail, Page(stream, Batch(0, 0, b"", True, False)))

    async def enter_last(self, tail: Tail, last_events: int) -> Page:
        """The first page of a reader that begins a number of events before the tail; otherwise as `enter`."""
        page = await self._read_log(tail.path, 0, last_events=last_events)
        self.observe(tail, page)
        return page

    async def _open(self, tail: Tail, position: int) -> Page:
        async def read() -> Page:
            try:
                page = await self._read_log(tail.path, position, recent=RECENT)
                self.observe(tail, page)  # before those who wait for it look
                return page
            finally:
                tail.opening = None

        tail.opening = Shared(read())
        return await tail.opening.result()

    async def read_on(self, tail: Tail, position: int) -> Page:
        """The next page of a reader that stands elsewhere than its tail. Raises what a read raises."""
        page = await self.read(tail.path, position)
        if page.batch.empty and not page.batch.closed and position < (tail.position or 0):
            page = await self.read(tail.path, position)  # the one it has joined had begun before the tail moved on
        self.observe(tail, page)
        return page

    def observe(self, tail: Tail, page: Page) -> None:
        """Takes note of a page that a follower has read: the first at the end of the log positions the tail."""
        if tail.stream is None:
            tail.take(page.stream)
            if page.stream.ttl is not None and tail.users:
                self._keep_at[tail] = self._clock() + min(page.stream.ttl / 3, KEEP)
        elif tail.stream.id != page.stream.id:
            self._drop(tail)  # another stream at the same path: its positions mean something else
            return
        batch = page.batch
        if not batch.up_to_date:
            return
        if batch.start > page.stream.tail:  # a reader ahead of the log moves nobody but itself
            batch = Batch(page.stream.tail, page.stream.tail, b"", True, page.stream.closed, before=batch.before)
        if tail.position is None:
            tail.position, tail.edge = batch.start, batch.before
            self._publish(tail, batch)
            if tail.doubted:
                tail.wanted = max(tail.wanted, tail.position + 1)
            else:
                self._catch_up(tail)
            if tail.wanted > tail.position and not tail.closed:
                self._fill(tail)
        elif batch.end > tail.position or (batch.closed and not tail.closed):
            self._want(tail, batch.end)

    def cursor(self, tail: Tail, client: int | None = None) -> int:
        """The cursor for followers of a tail: always ahead of every cursor that one of its readers came with."""
        if client is not None:
            tail.cursor_floor = max(tail.cursor_floor, cursor(self._now(), client, random.random()))
        now, floor = self._cursor, tail.cursor_floor
        return now if now > floor else floor

    # News

    def ring(self, news: News) -> None:
        """Takes news of a stream. Costs one look-up when nobody follows the stream here. Never raises."""
        tail = self.tails.get(news.path)
        if tail is None:
            return
        try:
            if tail.waiting and tail.stream is None and not news.deleted:
                tell(tuple(tail.waiting), WAKE)  # what they wait for has been made
            if news.deleted:
                self._drop(tail)
            elif not news.last and not news.closed:
                self.created(news.path)  # it has no event: that it was made is all there is to tell
            elif tail.position is None or tail.filling:
                tail.expect(news)
            elif news.last < tail.position or (news.last == tail.position and (tail.closed or not news.closed)):
                return  # it is known already
            elif news.first == tail.position + 1 and news.body is not None:
                batch = Batch(tail.position, news.last, news.body, True, news.closed, news.lengths)
                if len(news.body) > frames.LONG and _takes_long(tail, batch):
                    tail.heard = tail.heard or news.heard
                    tail.wanted = max(tail.wanted, news.last)
                    self._fill(tail, batch)
                else:
                    self._publish(tail, batch, news.heard)
            else:
                tail.heard = tail.heard or news.heard
                self._want(tail, news.last)
        except Exception:
            seldom_logger.exception(
                "Giving news to a stream's readers failed; the next sweep brings it to them from the log."
            )
            self._look.set()  # the next sweep sees whether the tail is behind

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block in which news of several streams is rung, and nothing awaited: their readers are sent it at its end,
        by as few system calls as possible.
        """
        self._delivering = delivering = dict[float, int]()
        try:
            with self.broadcast.together():
                yield
        finally:
            self._delivering = None
            try:
                now = self._clock()
                for heard, streams in delivering.items():
                    self.delivery_seconds.observe(now - heard, streams)
            except Exception:
                seldom_logger.exception(_NOT_COUNTED)

    def hint(self, news: News) -> None:
        """Takes news from a source that cannot be trusted: the log is asked whether the stream has changed."""
        tail = self.tails.get(news.path)
        if tail is None:
            return
        if tail.waiting and tail.stream is None:
            tell(tuple(tail.waiting), WAKE)
        if tail.position is not None and 0 < news.last <= tail.position and (tail.closed or not news.closed):
            return  # it is known already
        self.comparison.hint(tail)

    def created(self, path: str) -> None:
        """Takes the news that a stream was made at this path: one that was followed here before has expired."""
        tail = self.tails.get(path)
        if tail is None:
            return
        if tail.closed:
            self._drop(tail)
            return
        if tail.waiting and tail.stream is None:
            tell(tuple(tail.waiting), WAKE)
        tail.doubted = True  # it may be the new one's already, which a read that begins now tells
        if tail.position is not None:
            self._want(tail, tail.position + 1)

    def _publish(self, tail: Tail, batch: Batch, heard: float = 0.0, frame: bytes = b"") -> None:
        now = self._clock()
        crowd = tail.direct
        direct = len(crowd.members)
        if tail.formed:
            direct += sum([len(formed.members) for formed in tail.formed.values()])
        tail.publish(batch, self.cursor(tail), now, frame)
        if not direct:
            return
        try:
            self.delivered += direct
            if heard and not crowd.sendings:
                if self._delivering is None:
                    self.delivery_seconds.observe(self._clock() - heard)
                else:
                    self._delivering[heard] = self._delivering.get(heard, 0) + 1
            if self.published is not None:
                self.published(tail.path, batch.start, batch.end, direct)
        except Exception:
            seldom_logger.exception(_NOT_COUNTED)

    def _catch_up(self, tail: Tail) -> None:
        """Publishes the news that came while the log was read, as far as it goes on from where the tail is now."""
        while not tail.closed and (news := tail.due()) is not None:
            assert tail.position is not None and news.body is not None
            self._publish(tail, Batch(tail.position, news.last, news.body, True, news.closed, news.lengths), news.heard)

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

    def _fill(self, tail: Tail, known: Batch | None = None) -> None:
        if not tail.filling:
            tail.filling = True
            self._spawn(self._read_up(tail, known))

    async def _read_up(self, tail: Tail, known: Batch | None) -> None:
        """Reads on from where the tail stands, for everybody, until it stands at the end of the log. `known`: what is
        there first, where no read is needed for that.
        """
        try:
            if known is not None:
                await self._publish_in_pieces(tail, known)
                self._catch_up(tail)
                if tail.wanted <= (tail.position or 0):
                    return
            while not tail.closed and not tail.ended and tail.users:
                assert tail.position is not None and tail.stream is not None
                wanted, doubted = tail.wanted, tail.doubted
                page = await self.read(tail.path, tail.position, fresh=True)
                if page.stream.id != tail.stream.id:
                    self._drop(tail)
                    return
                if doubted:
                    tail.doubted = False
                if page.batch.start == tail.position and (not page.batch.empty or page.batch.closed):
                    await self._publish_in_pieces(tail, page.batch)
                self._catch_up(tail)
                if page.batch.up_to_date and tail.wanted <= max(wanted, tail.position):
                    tail.wanted = 0  # news named a position that this log does not have; wait for no such thing
                    return
        except (StreamNotFound, StreamGone, OffsetGone):
            self._drop(tail)
        except ProtocolError as error:
            self._outage.begin(error.__cause__)  # the next sweep fills the gap
        except Exception:
            seldom_logger.exception(
                "Giving a page of the log to a stream's readers failed; the next sweep tries again."
            )
        finally:
            tail.filling = False
            tail.early.clear()

    async def _publish_in_pieces(self, tail: Tail, batch: Batch) -> None:
        """Publishes a batch to a tail that is being filled, and so is moved by nobody else."""
        frame = b""
        if _takes_long(tail, batch):
            frame = await in_turns(tail.frame_in_pieces(batch, self.cursor(tail)))
        if not tail.ended:
            self._publish(tail, batch, tail.heard, frame)
        tail.heard = 0.0

    def _drop(self, tail: Tail) -> None:
        if self.tails.get(tail.path) is tail:
            del self.tails[tail.path]
        self._keep_at.pop(tail, None)
        tail.finish()

    def forget(self) -> dict[str, tuple[int, int]]:
        """The log is another one now: all followers end, and come back to it. Returns what they had been shown, as id
        and position of each stream.
        """
        shown: dict[str, tuple[int, int]] = {}
        for tail in tuple(self.tails.values()):
            if tail.stream is not None and tail.position is not None:
                shown[tail.path] = (tail.stream.id, tail.position)
            self._drop(tail)
        self.read.forget()
        return shown

    # Draining

    def drain(self, over: float) -> None:
        """Ends all followers, one after the other, within `over` seconds."""
        self.deadlines.drain(over)

    @property
    def draining(self) -> bool:
        """True while this Machine is shutting down."""
        return self.deadlines.draining

    @property
    def drained(self) -> bool:
        """True when no follower may stay here any more."""
        return self.deadlines.drained

    # The timer

    async def run(self) -> None:
        """The one timer, and the sweep. Runs until cancelled."""
        self._spawn(
            forever(
                "The comparison of tails with the log",
                self.sweep,
                self._sweep_interval,
                self._outage,
                bell=self._look,
                late=True,
            )
        )
        try:
            await forever("The timer of readers", self._on_tick, lambda: TICK, late=True)
        finally:
            await end(*self._tasks)
            await self.comparison.stop()

    async def _on_tick(self) -> None:
        for _ in self.ticking():  # not by `in_turns`: heartbeats wait for nobody's large bodies
            await asyncio.sleep(0)

    def tick(self) -> None:
        """Runs `ticking` to its end, without giving way."""
        for _ in self.ticking():
            pass

    def ticking(self) -> Generator[None, None, None]:
        """Ends the followers that are due, and sends a heartbeat where nothing was sent for long.

        It gives way after every BEATS tails, since all that were made at one time fall silent at one time.
        """
        now = self._clock()
        self._cursor = cursor(self._now(), None, 0)
        tell(self.deadlines.due(now), END)
        due = [tail for tail, at in self._keep_at.items() if at <= now]
        if due:
            self._spawn(self._keep(due, now))
        silent = now - self._heartbeat
        quiet = [tail for tail in self.tails.values() if tail.quiet_since <= silent]
        for beaten, tail in enumerate(quiet, 1):
            tail.beat(now)
            if beaten % BEATS == 0:
                yield

    async def _keep(self, tails: list[Tail], now: float) -> None:
        """Keeps streams with live readers from expiring (§5.1)."""
        for tail in tails:
            assert tail.stream is not None and tail.stream.ttl is not None
            self._keep_at[tail] = now + min(tail.stream.ttl / 3, KEEP)
        try:
            await self._touch([tail.path for tail in tails])
        except ProtocolError as error:
            self._outage.begin(error.__cause__)
        except Exception:
            seldom_logger.exception("Prolonging the TTL of streams with readers failed; the next touch tries again.")

    async def sweep(self) -> None:
        """Compares every tail with the log. Raises Unavailable."""
        await self.comparison.sweep(tuple(self.tails.values()))

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _takes_long(tail: Tail, batch: Batch) -> bool:
    """True if the frame of a batch has to be made in pieces."""
    return len(batch.body) > frames.LONG and len(batch.body) > frames.LONG_FOR_ALL[tail.encoding] and bool(tail.direct)
