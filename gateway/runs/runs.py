"""Runs as the application uses them: started, stopped, and mounted over the stream routes."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter

from gateway.fanout.hub import Hub
from gateway.feed import Feed
from gateway.http.bodies import Bodies
from gateway.http.reading import Reading
from gateway.http.routes import Routes
from gateway.log.database import Database
from gateway.log.lists import Lists
from gateway.protocol.batch import News
from gateway.protocol.run_path import control_of, is_run
from gateway.runs.foreign_runs import Others
from gateway.runs.leases import LeaseWatch
from gateway.runs.run_collection import RunRoutes, make_router
from gateway.runs.run_routes import RunStreams
from gateway.runs.store import Store
from gateway.runs.tokens import Signer, Tokens


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
        others: Others | None = None,
        lists: Lists | None = None,
    ) -> None:
        self._hub = hub
        self._others = others
        self._store = Store(database, machine=machine, lists=lists)
        tokens = Tokens(signer, self._store, bodies, others)
        self.streams = RunStreams(streams, self._store, tokens, reading, bodies, feed)
        self.leases = LeaseWatch(self._store.end_lost, feed.committed, database.away)
        self._routes = RunRoutes(self._store, signer, bodies, public_url, others)
        self.list = self._routes.list

    def start(self) -> None:
        """Begins to look at leases; without a database it begins when there is one."""
        self.leases.start()

    async def stop(self) -> None:
        await self.leases.stop()

    def heard(self, news: News) -> None:
        """Takes news of a run: when it is closed or deleted, so is its control stream, and that stream's readers look
        again.
        """
        if (news.closed or news.deleted) and is_run(news.path):
            self._hub.look_again([control_of(news.path)])

    def hinted(self, news: News) -> None:
        """Takes a hint of a run: its control stream's readers have the log asked."""
        if (news.closed or news.deleted) and is_run(news.path):
            self._hub.hint(replace(news, path=control_of(news.path)))

    def router(self) -> APIRouter:
        """`/runs` itself."""
        return make_router(self._routes, beside_others=self._others is not None)
