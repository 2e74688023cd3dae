"""The one place where everything is wired together: the log, the hub, and the routes of one Machine."""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Final

from gateway.asgi import Receive, Scope, Send
from gateway.auth.auth import Auth
from gateway.auth.gate import principal_of
from gateway.behind import Application
from gateway.fanout.broadcast import Broadcast
from gateway.fanout.hub import Hub, Published
from gateway.feed import Feed
from gateway.http.appends import Appends
from gateway.http.bodies import Bodies
from gateway.http.cors import Cors
from gateway.http.door import Door
from gateway.http.fast_append import Answers
from gateway.http.following import Following
from gateway.http.health import Health, HealthAnswers, Promise
from gateway.http.later import Later
from gateway.http.limits import Limits, LiveReaders
from gateway.http.routes import Routes
from gateway.http.stream_routes import StreamRoutes
from gateway.lifetime import Background, Part, lifetime
from gateway.log.database import Database
from gateway.log.identity import Server
from gateway.log.listen_address import listening_addresses
from gateway.log.lists import Lists
from gateway.log.log import Log
from gateway.metrics.catalogue import Parts, Source
from gateway.metrics.page import Exposition
from gateway.quotas import Quotas
from gateway.runs import Runs
from gateway.runs.quota import RunQuota
from gateway.settings import Settings
from gateway.subscriptions import Subscriptions
from gateway.tasks import end
from gateway.wire.descriptors import room_for
from gateway.wire.outflow import Outflow

# What a Machine needs only where a setting asks for it, or when a request needs FastAPI, is imported where
# it is made: that halves the time until it is ready.
if TYPE_CHECKING:
    from fastapi import FastAPI

    from gateway.flue.flue import Flue
    from gateway.metrics.siblings import Siblings

DRAINING: Final = 0.8  # part of the drain time in which followers are ended; in the rest, their last bytes are sent


class Gateway:
    """A Machine over a migrated database, as an ASGI application.

    Streams are answered straight over ASGI, everything else by FastAPI. `listen_database_url`: the database past any
    pooler, for LISTEN. `siblings`: other workers that share this one's port.
    """

    def __init__(
        self,
        settings: Settings,
        database_url: str,
        listen_database_url: str | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        self.settings = settings
        self.machine = secrets.token_hex(4)
        self.address = f"http://{settings.host}:{settings.port}"  # until the server knows better
        self.cors = Cors(settings.origins)
        self._database = Database(
            database_url,
            pool_size=settings.pool_size,
            statement_timeout=settings.statement_timeout,
            max_age=settings.connection_max_age,
            patience=settings.database_wait,
        )
        # Credentials, and limits of what is asked for
        self._auth = Auth(settings, self._database)
        self._quotas = Quotas(settings, RunQuota(self._database, settings.max_runs_per_tenant or 0).full)
        self._limits = self._make_limits()
        self._lists = Lists(self._database, most=settings.max_lists, seconds=settings.list_timeout)
        self._database.on_switch = self._switched
        # The logs, and the hubs that follow them
        self._feed = Feed()
        self._broadcast = Broadcast()
        self._flue = self._make_flue() if settings.flue else None
        self._telling: asyncio.Task[None] | None = None
        self._log = self._make_log(listening_addresses(database_url, listen_database_url))
        self._hub = self._make_hub()
        self._background = Background({"readers' timer": self._hub.run, "housekeeping": self._log.housekeeping.run})
        # What is served from them
        self._subscriptions = self._make_subscriptions()
        self._streams = StreamRoutes(
            self._log,
            self._hub,
            self._limits,
            now=time.time,
            public_url=settings.public_url,
            expect=None if self._log.near is None else self._log.near.replica.watermarks.seen,
            shares=self._auth.public.shares,
        )
        self._appends = Appends(self._log, self._limits, self._quotas)
        self._runs = self._make_runs()
        self._leaving = False  # a drain follows
        self._application = self._make_application(siblings)
        self._flues = [each for each in (self._flue, self._application.conversations) if each is not None]
        self._hubs = [self._hub, *(each.hub for each in self._flues)]
        self._subscribe()
        self.metrics = Exposition(self._parts(), siblings)
        self.api = Later(self._make_api)
        self._door = self._make_door()

    def read_keys_again(self) -> None:
        """Reads the file of keys again, as SIGHUP asks for."""
        self._auth.read_again()

    def leave(self) -> None:
        """`/ready` turns 503; all else goes on."""
        self._leaving = True

    def begin_drain(self) -> None:
        """Ends what is open, cleanly and spread over the drain time; `/ready` turns 503 immediately."""
        for hub in self._hubs:
            hub.drain(self.settings.drain_timeout * DRAINING)
        self._application.drain()

    def end_drain(self) -> None:
        """Cuts what is still passed on of the application's answers."""
        self._application.cut()

    async def hand_over(self) -> None:
        """Gives to other Machines what this one owns, as soon as it is idle, before a drain; `/ready` turns 503."""
        if self._application.owner is not None:
            self._leaving = True
            await self._application.hand_over()

    def observe(self, published: Published) -> None:
        """Has `published` called for each batch that is written to followers here, for traces."""
        for hub in self._hubs:
            hub.published = published

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._door if scope["type"] == "http" else self._lifespan)(scope, receive, send)

    @property
    def bodies(self) -> Bodies:
        """The account of bodies that are arriving, in which the server's connections count."""
        return self._limits.bodies

    @property
    def outflow(self) -> Outflow:
        """Where answers wait for clients that do not read them."""
        return self._limits.outflow

    @property
    def answers(self) -> Answers:
        """The part that sends the answers of one commit in one system call."""
        return self._hub.broadcast

    @property
    def door(self) -> Door | None:
        """The door for POSTs that come past ASGI (`gateway.http.fast_append`), if they may."""
        return self._door if self._door.past_asgi else None

    def _subscribe(self) -> None:
        """Subscribes to commits: readers first, then the parts that find out what a commit means for others."""
        feed = self._feed
        if self._log.near is not None:
            replica = self._log.near.replica
            for channel in (feed.committed, feed.heard, feed.hinted):
                channel.subscribe(replica.watermarks.news)
            feed.created.subscribe(lambda path, _: replica.watermarks.made(path))
            feed.stood.subscribe(replica.watermarks.seen)
            feed.missed.subscribe(replica.doubt)
        feed.together, feed.answering = self._hub.together, self._hub.broadcast.together
        feed.committed.subscribe(self._hub.ring)
        feed.committed.turns.subscribe(self._runs.heard, self._subscriptions.ended)
        self._subscriptions.follow(feed.committed)
        feed.heard.subscribe(self._hub.ring)
        feed.heard.turns.subscribe(self._runs.heard)
        feed.hinted.subscribe(self._hub.hint)
        feed.hinted.turns.subscribe(self._runs.hinted)
        for flue in self._flues:
            feed.heard.subscribe(flue.notifications.heard)
            feed.hinted.subscribe(flue.notifications.hinted)
        if self._application.relay is not None:
            for channel in (feed.committed, feed.heard, feed.hinted):
                channel.subscribe(self._application.relay.heard)
        feed.created.subscribe(lambda path, _: self._hub.created(path), self._subscriptions.created)
        feed.created.subscribe(lambda path, _: self._runs.created(path))
        feed.doubted.subscribe(self._hub.look_again, self._runs.changes.doubted)
        feed.missed.subscribe(*(hub.look_again for hub in self._hubs), self._runs.changes.look_again)
        listener, others = self._log.listener, self._log.listener.others
        self._runs.changes.begun = listener.tell_of_lists
        # Of runs that are made others tell where a list is followed, and where a replica may not have them yet.
        listener.lists = lambda: bool(self._runs.changes.tenants) or self._log.near is not None
        self._runs.announcements.machine = lambda: others.name if others.listing else None

    def _switched(self, before: Server, after: Server) -> None:
        """The database is another server now, whose log may lack the end of what was shown here."""
        if self._log.near is not None:
            self._log.near.replica.switched()
        shown = self._hub.forget()
        if self._flue is not None:
            self._flue.hub.forget()
        self._application.switched()
        self._log.listener.doubt()
        self._telling = asyncio.ensure_future(self._log.tell_of_switch(before, after, shown))

    async def _end_telling(self) -> None:
        await end(self._telling)

    async def readiness(self) -> Health:
        """The state of what this Machine needs, for /health and /ready."""
        durability = await self._log.durability()
        return Health(
            machine="/".join(self.settings.place.values()) or self.machine,
            database=durability is not None,
            news=self._log.listener.news,
            flue=next((flue.news for flue in self._flues), None),
            draining=self._leaving or self._hub.draining,
            durability=None if durability is None else Promise(**asdict(durability)),
        )

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's lifespan protocol. What a part raises ends the server, which logs the message."""
        await receive()
        moment = "startup"
        try:
            async with lifetime(self._stages()):
                await send({"type": "lifespan.startup.complete"})
                making = asyncio.ensure_future(self.api())  # nobody has to wait for it who comes a second later
                await receive()
                await asyncio.wait([making])
                moment = "shutdown"
        except BaseException:
            await send({"type": f"lifespan.{moment}.failed", "message": traceback.format_exc()})
            raise
        await send({"type": "lifespan.shutdown.complete"})

    def _stages(self) -> Iterator[list[Part]]:
        """The parts, in the order in which they start; those of one list start at the same time."""
        app = self._application
        yield [Part(self._database.open, self._database.close)]
        yield [Part(None, self._end_telling)]
        if app.upstream is not None:
            yield [Part(None, app.upstream.close)]
        if self._log.near is not None:
            yield [Part(self._log.near.replica.open, self._log.near.replica.close)]
        if self.settings.io_uring:
            yield [Part(self._broadcast.open, self._broadcast.close)]
        yield [Part(self.metrics.open, self.metrics.close)]
        # At the same time, since each asks the database a dozen times.
        yield [Part(part.start, part.stop) for part in (self._auth, self._log.listener, self._subscriptions)]
        yield [Part(self._runs.start, self._runs.stop)]
        yield [Part(self._background.start, self._background.stop)]
        for flue in self._flues:
            yield [Part(flue.start, flue.stop)]
        yield [Part(None, self._log.writer.close)]
        if app.owner is not None:
            yield [Part(app.owner.start, app.owner.stop)]
        if app.owner is not None and app.agents is not None:
            yield [Part(partial(app.agents.start, app.owner, app.reached_at), app.agents.stop)]
        if app.relay is not None:  # ends before the owner: what it records keeps conversations here
            yield [Part(app.relay.start, app.relay.stop)]

    # The parts, made from the settings

    def _make_limits(self) -> Limits:
        settings = self.settings
        return Limits(
            settings.max_body,
            settings.long_poll_timeout,
            settings.sse_max_age,
            max_batch=settings.max_batch,
            max_event=settings.max_event,
            readers=LiveReaders(room_for(settings.max_readers), settings.max_followed),
            streams=self._quotas.streams,
            bodies=Bodies(settings.max_pending),
        )

    def _make_flue(self) -> Flue:
        from gateway.flue.flue import Flue

        return Flue(
            self.settings, self._database, self._limits, self._broadcast, lambda: self._log.listens, self._lists
        )

    def _make_log(self, addresses: Sequence[str]) -> Log:
        outflow = self.outflow
        return Log(
            self.settings,
            self._database,
            addresses,
            machine=self.machine,
            feed=self._feed,
            crowded=lambda: outflow.crowded,
        )

    def _make_hub(self) -> Hub:
        settings, log = self.settings, self._log
        return Hub(
            read=log.live,
            fresh=log.fresh,
            positions=log.reader.positions,
            touch=log.reader.touch,
            now=time.time,
            clock=time.monotonic,
            heartbeat=settings.heartbeat,
            sweep_interval=self._sweep_interval,
            trusted=lambda: log.listens,
            broadcast=self._broadcast,
            away=self._database.away,
        )

    def _sweep_interval(self) -> float:
        return self.settings.sweep_interval if self._log.listens else self.settings.poll_interval

    def _make_following(self) -> Following:
        following = Following(
            self._hub, self._log.reader.streams, self._limits, self._auth.admit, self.settings.heartbeat, time.time
        )
        following.of_a_list = self._runs.followed
        return following

    def _make_subscriptions(self) -> Subscriptions:
        return Subscriptions(
            self._database,
            base_url=lambda: self.settings.public_url or self.address,
            allow_local_webhooks=self.settings.local_webhooks,
            bodies=self._limits.bodies,
            most=self.settings.max_subscriptions_per_tenant,
            changes=self.settings.max_subscription_changes,
            work=self._lists.work,
        )

    def _make_runs(self) -> Runs:
        return Runs(
            self._database,
            self._hub,
            self._streams,
            self._streams.reading,
            self._auth.signer,
            machine=self.machine,
            bodies=self._limits.bodies,
            public_url=self.settings.public_url,
            feed=self._feed,
            limits=self._limits,
            look=self._log.reader.streams,
            heartbeat=self.settings.heartbeat,
            sweep_interval=self._sweep_interval,
            others=self._flue,
            lists=self._lists,
            near=self._log.near,
        )

    def _make_application(self, siblings: Siblings | None) -> Application:
        return Application(
            self.settings,
            self._database,
            self._log,
            self._hub,
            self._feed,
            self._limits,
            self._auth,
            self._quotas,
            machine=self.machine,
            reached_at=lambda: self.settings.advertised or self.address,
            siblings=siblings,
        )

    def _parts(self) -> Parts:
        """The parts that count, for the metrics."""
        return Parts(
            self.settings.place | {"machine": self.machine},
            self._database,
            self._log,
            self._log.writer,
            self._appends,
            self._log.listener,
            self._limits.readers,
            self._hubs,
            [self._streams.reading, self._flue.reading] if self._flue else [self._streams.reading],
            self._sources(),
            self._runs.leases,
            self._subscriptions,
            self._application.relay,
            self._application.owner,
            self._application.agents,
            self._application.conversations,
        )

    def _sources(self) -> list[Source]:
        near = [] if self._log.near is None else [self._log.near.there]
        return [self._log.reader, *near, *self._flues]

    def _make_door(self) -> Door:
        streams: Routes = self._runs.streams
        if self._flue is not None:
            streams = self._flue.routes(streams, self._log.stat)
        return Door(
            auth=self._auth,
            quotas=self._quotas,
            cors=self.cors,
            streams=streams,
            health=HealthAnswers(self.readiness, lambda scope: principal_of(scope).operates),
            together=self._appends,
            api=self.api,
            behind=self._application.answers,
            relayed=self._application.relayed,
        )

    def _make_api(self) -> FastAPI:
        from gateway.api import make_api

        return make_api(
            auth=self._auth,
            metrics=self.metrics if self.settings.metrics_port is None else None,
            subscriptions=self._subscriptions,
            following=self._make_following(),
            flue=self._flue,
            runs=self._runs,
        )
