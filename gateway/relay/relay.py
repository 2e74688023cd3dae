"""The relay, in front of the upstream, for the requests that a row is for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from gateway.asgi import Receive, Scope
from gateway.auth.auth import Auth
from gateway.fanout.hub import Hub
from gateway.feed import Feed
from gateway.http import responses
from gateway.http.door import Behind
from gateway.http.limits import Limits
from gateway.http.owned import Owners
from gateway.http.responses import Sending
from gateway.http.upstream import RELAYED, Upstream
from gateway.log.database import Database
from gateway.log.log import Log
from gateway.outage import SeldomLogger
from gateway.protocol.batch import News
from gateway.protocol.errors import ProtocolError
from gateway.protocol.headers import NO_STORE
from gateway.protocol.target import shown
from gateway.quotas import Quotas
from gateway.relay.asking import Asking
from gateway.relay.beginning import Beginnings, Sizes
from gateway.relay.keys import Asked
from gateway.relay.patterns import query_of
from gateway.relay.posts import Posts
from gateway.relay.readers import Readers
from gateway.relay.recorder import Recorder
from gateway.relay.rejoining import Rejoining
from gateway.relay.replay import Replays, sever
from gateway.relay.returns import Returns, Stopping
from gateway.relay.rows import Row
from gateway.relay.store import Store
from gateway.relay.table import Fit, Table
from gateway.runs import store as runs
from gateway.settings import Settings
from gateway.tasks import end, forever, kept

logger = logging.getLogger("gateway.relay")
seldom_logger: Final = SeldomLogger(logger)

TICK: Final = 1.0  # seconds between looks at what is recorded here
TAKEN: Final = 50  # recordings that are taken over at one look
NOTE: Final = 0.9  # seconds for which others need not be told again that a recording has readers here


class Relay:
    """Answers what the upstream would be asked: from a recording, by recording, or by passing it on."""

    def __init__(
        self,
        rows: tuple[Row, ...],
        settings: Settings,
        database: Database,
        log: Log,
        hub: Hub,
        feed: Feed,
        limits: Limits,
        auth: Auth,
        quotas: Quotas,
        upstream: Upstream,
        machine: str,
    ) -> None:
        assert settings.upstream is not None, "a relay has an upstream"
        self._table = Table(rows)
        self._settings = settings
        self._upstream = upstream
        self._recorders = Upstream(settings.relay_recorders) if settings.relay_recorders else None
        self._store = Store(database, machine=machine)
        self._idle = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self.owners: Owners | None = None  # of conversations, where those have any
        self._until = 0.0  # when a drain is over
        self._noted = 0.0  # when others were told last which recordings have readers here
        asking = Asking(settings.upstream)
        sizes = Sizes(
            frame=max(settings.max_event, settings.max_body),
            lease=settings.relay_lease,
            most=settings.relay_max_recordings,
            duration=settings.relay_max_duration,
        )
        self._rejoining = Rejoining(asking, log.reader.live, self._store, sizes.frame, settings.relay_rejoin)
        self._beginnings = Beginnings(asking, log, self._store, feed, sizes, self._rejoining, self._changed)
        self.counts = self._beginnings.counts
        self._readers = Readers(settings, auth, quotas, asking)
        self._replays = Replays(hub, limits)
        self._stopping = Stopping(runs.Store(database, machine=machine), feed)
        self._returns = Returns(self._table, self._readers, self._store, self._stopping, self._replays)
        self._posts = Posts(
            self._readers,
            self._store,
            self._beginnings,
            self._replays,
            self._returns,
            upstream,
            limits.bodies,
            settings.max_body,
        )

    @property
    def recorders(self) -> list[Recorder]:
        """The recordings under way at this Machine."""
        return list(self._beginnings.recorders.values())

    @property
    def unread(self) -> int:
        """The number of them that nobody follows here."""
        return sum(not self._replays.has_readers(path) for path in self._beginnings.recorders)

    @property
    def rejoined(self) -> int:
        """The number of recordings that went on here after a connection, or a Machine, was lost."""
        return self._rejoining.rejoined

    async def start(self) -> None:
        """Begins to look after recordings."""
        self._readers.secret = await self._store.secret()
        self._watch = kept("relay", lambda: forever("The look at recordings", self._step, lambda: TICK, late=True))

    def drain(self) -> None:
        """Begins the drain: recordings have `relay_drain` seconds to end, from the first call on."""
        if self._until:
            return
        self._until = time.monotonic() + self._settings.relay_drain
        if self._beginnings.recorders:
            logger.info("Draining: %d recordings have %g s to end.", len(self.recorders), self._settings.relay_drain)

    async def stop(self) -> None:
        """Waits for recordings. Those left are ended as lost: their upstreams' connections end with this process."""
        await self._ended(self._until - time.monotonic())
        for recorder in self.recorders:
            recorder.hand_over("the Machine that recorded it has ended")
        if not await self._ended(self._settings.append_timeout):
            logger.error("%d recordings could not be ended; their leases end them.", len(self.recorders))
            for recorder in self.recorders:
                recorder.let_go()
        self._returns.close()
        self._beginnings.close()
        await end(self._watch)
        if self._recorders is not None:
            await self._recorders.close()

    async def _ended(self, seconds: float) -> bool:
        """Whether all recordings have ended, within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                while self._beginnings.recorders:
                    self._idle.clear()
                    await self._idle.wait()
        return not self._beginnings.recorders

    def heard(self, news: News) -> None:
        """Takes news of a run's control stream, which may be a cancel."""
        recorder = self._beginnings.by_control.get(news.path)
        if recorder is not None and not news.deleted:
            recorder.ask()

    async def __call__(self, scope: Scope, receive: Receive, send: Sending) -> None:
        """Answers a request that is not for the gateway itself. Raises ProtocolError while nothing has been sent."""
        await self._guarded(partial(self._answer, scope, receive, send), scope, receive, send)

    def before(self, owner: Behind) -> Behind:
        """Answers in front of owners of conversations: recordings are in the log, so clients come back to them, and
        stop them, at any Machine. Every other request goes to the owner, which records the answer.
        """

        async def answer(scope: Scope, receive: Receive, send: Sending) -> None:
            come_back = partial(self._come_back, scope, receive, send, anywhere=True)
            if RELAYED in scope or not await self._guarded(come_back, scope, receive, send):
                await owner(scope, receive, send)

        return answer

    async def _guarded(
        self, answer: Callable[[], Awaitable[bool]], scope: Scope, receive: Receive, send: Sending
    ) -> bool:
        """Whether there was an answer. Raises ProtocolError while nothing has been sent."""
        try:
            return await answer()
        except ProtocolError as error:
            if send.begun or not responses.comes_back(scope, error):
                raise
            # An EventSource comes back after a 200, and no other client may take what ends at once for the whole.
            responses.refusal(scope, error)
            await responses.start(send.as_it_is, 200, [(b"content-type", b"text/event-stream"), NO_STORE])
            await sever(scope, receive)
            return True

    async def _come_back(self, scope: Scope, receive: Receive, send: Sending, *, anywhere: bool = False) -> bool:
        """Whether a client was answered that comes back to a recording, or stops one."""
        if not self._table.concerns(scope["method"]):
            return False
        raw_path, asked = _url(scope)
        returns, out = self._returns, send.as_it_is
        return (
            await returns.by_id(asked, raw_path, scope, receive, out, anywhere=anywhere)
            or await returns.by_key(asked, raw_path, scope, receive, out, anywhere=anywhere)
            or await returns.stop(asked, raw_path, scope, out, anywhere=anywhere)
        )

    async def _answer(self, scope: Scope, receive: Receive, send: Sending) -> bool:
        if await self._come_back(scope, receive, send):
            return True
        starts: list[Fit] = []
        if self._table.concerns(scope["method"]):
            raw_path, asked = _url(scope)
            starts = self._table.starts(scope["method"], raw_path, asked.query)
        if not starts:
            await self._upstream(scope, receive, send.as_it_is)
        elif self._recorders is not None:
            await self._recorders(scope, receive, send.as_it_is)
        else:
            await self._posts(starts, asked, scope, receive, send.as_it_is)
        return True

    def _changed(self) -> None:
        self._idle.set()

    async def _step(self) -> None:
        """Looks at all recordings. Raises Unavailable."""
        now = time.monotonic()
        for recorder in self.recorders:
            try:
                self._look_at(recorder, now)
            except Exception:  # the signs of life of all others go on
                seldom_logger.exception("Looking at run %s failed; its lease may end it.", shown(recorder.path))
        await self._take_over()
        await self._note_readers(now)
        for recorder in self.recorders:
            if await self._is_left(recorder, now):
                await self._stopping(recorder.path, "Nobody reads it.")
                recorder.stop("left")

    async def _take_over(self) -> None:
        """Goes on with recordings whose Machines are gone, and lets go of those that others go on with."""
        rows = [row.name for row in self._table.rows if row.rejoin is not None]
        if not rows:
            return
        own = {recorder.stream: recorder for recorder in self.recorders if recorder.again is not None}
        if own:
            for stream in await self._store.taken({stream: each.generation for stream, each in own.items()}):
                logger.warning("Run %s is recorded by another Machine.", shown(own[stream].path))
                own[stream].let_go()
        room = min(TAKEN, self._beginnings.room)
        if room > 0 and not self._until:
            life = None if self.owners is None else self.owners.life
            for taken in await self._store.take(rows, room, life):
                await self._beginnings.take(taken, self._table.named[taken.relay], self.owners)

    async def unfinished(self, conversations: Sequence[bytes]) -> set[bytes]:
        """The conversations with an unfinished recording with which the next owner can go on. Raises Unavailable."""
        return await self._store.unfinished(conversations)

    async def _note_readers(self, now: float) -> None:
        """Says to the Machines that record them that recordings have readers here."""
        if self._replays.missed and now - self._noted > NOTE:
            await self._store.read(self._replays.missed)
            self._noted = now

    async def _is_left(self, recorder: Recorder, now: float) -> bool:
        """Whether no Machine has had a reader of a recording for too long, where that matters."""
        if not recorder.cancels or self._replays.has_readers(recorder.path):
            recorder.left = None
            return False
        recorder.left = recorder.left or now
        if now - recorder.left < recorder.row.leave_after:
            return False
        seconds = await self._store.unread(recorder.stream)
        return seconds is None or seconds > max(recorder.row.leave_after, 3 * TICK)

    def _look_at(self, recorder: Recorder, now: float) -> None:
        settings = self._settings
        if now - recorder.began > settings.relay_max_duration:
            recorder.lose(f"it has lasted {settings.relay_max_duration:g} s")
        elif recorder.asking is None and now - recorder.heard > settings.relay_silence:
            recorder.lose(f"its upstream has been silent for {settings.relay_silence:g} s")
        else:
            recorder.tick(now)


def _url(scope: Scope) -> tuple[str, Asked]:
    """The path as it came, and the request as rows look at it."""
    query = query_of(scope["query_string"])
    return scope["raw_path"].decode("latin-1"), Asked(scope["headers"], query, {})
