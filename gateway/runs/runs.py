"""Runs as the application uses them: started, stopped, and mounted over the stream routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from gateway.fanout.hub import Hub
from gateway.fanout.multiplex import Look
from gateway.feed import Feed
from gateway.http.bodies import Bodies
from gateway.http.limits import Limits
from gateway.http.reading import Reading
from gateway.http.routes import Routes
from gateway.log.database import Database
from gateway.log.lists import Lists
from gateway.log.near import Near
from gateway.protocol.batch import News
from gateway.protocol.target import control_of, is_run
from gateway.runs.announcements import Announcements
from gateway.runs.following_list import FollowedLists
from gateway.runs.foreign_runs import Others
from gateway.runs.leases import LeaseWatch
from gateway.runs.live_list import Changes
from gateway.runs.live_list_answer import LiveLists
from gateway.runs.run_routes import RunStreams
from gateway.runs.store import Store
from gateway.runs.tokens import Signer, Tokens
from gateway.tasks import end, forever, kept

if TYPE_CHECKING:
    from fastapi import APIRouter

    from gateway.runs.run_collection import RunRoutes


class Runs:
    """A Machine's part in all runs.

    `streams`: the routes of all streams, `reading` what reads them. `signer` makes tokens for runs' readers. `feed` is
    given what is written here. `public_url`: the address by which clients know this server, if it is set. `others`:
    another system's runs, which are served beside the gateway's own.
    """

    def __init__(
        self,
        database: Database,
        hub: Hub,
        streams: Routes,
        reading: Reading,
        signer: Signer,
        *,
        machine: str,
        bodies: Bodies,
        public_url: str | None,
        feed: Feed,
        limits: Limits,
        look: Look,
        heartbeat: float,
        sweep_interval: Callable[[], float],
        others: Others | None = None,
        lists: Lists | None = None,
        near: Near | None = None,
    ) -> None:
        self._hub = hub
        self._sweep_interval = sweep_interval
        self._sweeping: asyncio.Task[None] | None = None
        self._others = others
        self._store = Store(database, machine=machine, lists=lists, near=near)
        tokens = Tokens(signer, self._store, bodies, others)
        self.streams = RunStreams(streams, self._store, tokens, reading, bodies, feed, hub.readers)
        self.leases = LeaseWatch(self._store.end_lost, feed.committed, database.away)
        self.changes = Changes(self._store.changes, hub.deadlines, heartbeat)
        self.announcements = Announcements(self._store.tell_of)
        self.followed = FollowedLists(self.changes, self._store, hub, look, limits, heartbeat, time.time)
        self._live = LiveLists(self.changes, self._store.listed, hub, limits, time.time)
        self._signer = signer
        self._bodies = bodies
        self._public_url = public_url

    def start(self) -> None:
        """Begins to look at leases; without a database it begins when there is one."""
        self.leases.start()
        self._sweeping = kept(
            "live lists", lambda: forever("The sweep of live lists", self._sweep, self._sweep_interval, late=True)
        )

    async def stop(self) -> None:
        await end(self._sweeping)
        await self.announcements.stop()
        await self.leases.stop()

    async def _sweep(self) -> None:
        """A lost notification makes readers of lists late, never wrong (law 2)."""
        self.changes.look_again()

    def created(self, path: str) -> None:
        """Takes a stream that this Machine has made, which may be a run."""
        if is_run(path):
            self.changes.ring(path)
            self.announcements.announce(path)

    def heard(self, news: News) -> None:
        """Takes news of a run's first events, or of its end: then its control stream has ended too, whose readers look
        again.
        """
        if self._ends(news):
            self._hub.look_again([control_of(news.path)])

    def hinted(self, news: News) -> None:
        """Takes a hint of a run: its control stream's readers have the log asked."""
        if self._ends(news):
            self._hub.hint(replace(news, path=control_of(news.path)))

    def _ends(self, news: News) -> bool:
        """True if news says that a run is closed or deleted. Lists look again at what may change them: an end, a first
        event, and a request to stop, which is the first event of a control stream.
        """
        self.changes.ring(news.path)
        return (news.closed or news.deleted) and is_run(news.path)

    @cached_property
    def routes(self) -> RunRoutes:
        """The routes of `/runs` itself."""
        from gateway.runs.run_collection import RunRoutes

        return RunRoutes(
            self._store, self._signer, self._bodies, self._public_url, self._live, self.created, self._others
        )

    def router(self) -> APIRouter:
        """`/runs` itself."""
        from gateway.runs.run_collection import make_router

        return make_router(self.routes, beside_others=self._others is not None)
