"""The one place where everything is wired together: the log, the hub, and the routes of one Machine."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI

from gateway.auth.face import Auth
from gateway.descriptors import room_for
from gateway.fanout.hub import Hub, Published
from gateway.fanout.transport import Cycle
from gateway.flue.face import Flue
from gateway.http.cors import Cors
from gateway.http.docs import docs_router
from gateway.http.entry import Entry, render_refusals
from gateway.http.health import Health, health_router
from gateway.http.openapi import describe
from gateway.http.reading import Limits
from gateway.http.responses import Receive, Scope, Send
from gateway.http.routes import Routes
from gateway.http.streams import StreamRoutes
from gateway.http.upstream import Upstream
from gateway.limits import Quotas
from gateway.log.database import Database
from gateway.log.direct import listening_addresses
from gateway.log.housekeeping import Housekeeping
from gateway.log.lifecycle import Created, Lifecycle
from gateway.log.listener import Listener
from gateway.log.reader import Reader
from gateway.log.writer import Writer
from gateway.metrics.catalogue import Parts
from gateway.metrics.page import Exposition, metrics_router
from gateway.metrics.siblings import Siblings
from gateway.protocol.batch import News
from gateway.protocol.create import CreateRequest
from gateway.protocol.errors import Unavailable
from gateway.runs import Runs
from gateway.runs.quota import RunQuota
from gateway.settings import Settings
from gateway.subscriptions import Subscriptions

WRITER_LANES = 3  # batches of appends that may be on their way to the database at once


class Gateway:
    """One Machine, as an ASGI application. Streams are answered here; everything else by FastAPI."""

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
        self._database = Database(
            database_url,
            pool_size=settings.pool_size,
            statement_timeout=settings.statement_timeout,
            max_age=settings.connection_max_age,
        )
        self.cors = Cors(settings.origins)
        self._auth = Auth(settings, self._database)
        self._reader = Reader(
            self._database,
            page_bytes=settings.page_bytes,
            most=settings.max_reads,
            patience=settings.statement_timeout,
        )
        self._lifecycle = Lifecycle(self._database, machine=self.machine)
        self._housekeeping = Housekeeping(
            self._database,
            machine=self.machine,
            interval=settings.housekeeping_interval,
            pack=settings.pack,
            retention=settings.retention,
        )
        self._hub = Hub(
            read=self._reader.live,
            positions=self._reader.positions,
            touch=self._reader.touch,
            now=time.time,
            clock=time.monotonic,
            heartbeat=settings.heartbeat,
            sweep_interval=self._sweep_interval,
        )
        runs_full = RunQuota(self._database, settings.max_runs_per_tenant or 0).full
        self._quotas = Quotas(settings, runs_full)
        limits = Limits(
            settings.max_body,
            settings.long_poll_timeout,
            settings.sse_max_age,
            max_readers=room_for(settings.max_readers),
            max_batch=settings.max_batch,
            max_event=settings.max_event,
            streams=self._quotas.streams,
        )
        self._flue = Flue(settings, self._database, limits, self._listens) if settings.flue else None
        self._hubs = [self._hub, self._flue.hub] if self._flue else [self._hub]
        self._writer = Writer(
            self._database,
            machine=lambda: None if self._listener.alone else self.machine,
            lanes=WRITER_LANES,
            timeout=settings.append_timeout,
            max_pending=settings.max_pending,
            on_commit=self._committed,
            on_doubt=self._hub.look_again,
        )
        self._listener = Listener(
            listening_addresses(database_url, listen_database_url),
            self._database,
            machine=self.machine,
            heartbeat=settings.heartbeat,
            on_news=self._flue.hears(self._heard) if self._flue else self._heard,
            on_change=self._look_again,
        )
        self._subscriptions = Subscriptions(
            self._database, base_url=self._base_url, allow_local_webhooks=settings.local_webhooks
        )
        self._streams = StreamRoutes(
            _Log(self._reader, self._writer, self._lifecycle, self._heard, self._subscriptions),
            self._hub,
            limits,
            now=time.time,
            public_url=settings.public_url,
        )
        self._runs = Runs(
            self._database,
            self._hub,
            self._streams,
            self._auth.token_for,
            machine=self.machine,
            public_url=settings.public_url,
            on_commit=self._committed,
            others=self._flue,
        )
        self._upstream = Upstream(settings.upstream) if settings.upstream else None
        self.metrics = Exposition(
            Parts(
                settings.place | {"machine": self.machine},
                self._database,
                self._writer,
                self._listener,
                self._hubs,
                [self._streams.reading, self._flue.reading] if self._flue else [self._streams.reading],
                [self._reader, self._flue] if self._flue else [self._reader],
                self._runs.leases,
            ),
            siblings,
        )
        self._api = self._make_api()
        self._entry = self._make_entry()

    def read_keys_again(self) -> None:
        """What SIGHUP asks for."""
        self._auth.read_again()

    def begin_drain(self) -> None:
        """Ends what is open, cleanly and spread over the drain time; `/ready` turns 503 at once."""
        for hub in self._hubs:
            hub.drain(self.settings.drain_timeout * 0.8)

    def observe(self, published: Published) -> None:
        """Whoever traces deliveries hears of each batch that is written to followers here."""
        for hub in self._hubs:
            hub.published = published

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._entry if scope["type"] == "http" else self._api)(scope, receive, send)

    @property
    def append_directly(self) -> Callable[[Cycle], bool]:
        """What gateway.fanout.transport offers each POST to."""
        return self._entry.append_directly

    def _heard(self, news: News) -> None:
        self._hub.ring(news)
        self._runs.heard(news)

    def _committed(self, news: News) -> None:
        self._heard(news)
        if news.last >= news.first:
            self._subscriptions.appended(news.path)

    def _look_again(self) -> None:
        for hub in self._hubs:
            hub.look_again()

    def _listens(self) -> bool:
        return self._listener.news == "listen"

    def _sweep_interval(self) -> float:
        return self.settings.sweep_interval if self._listens() else self.settings.poll_interval

    def _base_url(self) -> str:
        return self.settings.public_url or self.address

    async def _readiness(self) -> Health:
        database = True
        try:
            async with asyncio.timeout(2):
                async with self._database.acquire() as connection:
                    await connection.fetchval("SELECT 1")
        except (Unavailable, TimeoutError):
            database = False
        return Health(
            database=database,
            news=self._listener.news,
            flue=None if self._flue is None else self._flue.news,
            draining=self._hub.draining,
        )

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        await self._database.open()
        await self.metrics.open()
        # Each asks the database a dozen times.
        await asyncio.gather(self._auth.start(), self._listener.start(), self._subscriptions.start())
        self._runs.start()
        background = [asyncio.create_task(self._hub.run()), asyncio.create_task(self._housekeeping.run())]
        if self._flue is not None:
            background += await self._flue.start()
        try:
            yield
        finally:
            await self._writer.close()
            for task in background:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await self._runs.stop()
            await self._subscriptions.stop()
            await self._listener.stop()
            await self._auth.stop()
            await self.metrics.close()
            if self._upstream is not None:
                await self._upstream.close()
            await self._database.close()

    def _make_entry(self) -> Entry:
        streams: Routes = self._runs.streams
        append_directly = self._streams.append_directly
        if self._flue is not None:
            routes = self._flue.routes(streams, append_directly, self._reader.stat)
            streams, append_directly = routes, routes.append_directly
        return Entry(
            auth=self._auth,
            quotas=self._quotas,
            cors=self.cors,
            streams=streams,
            append_directly=append_directly,
            api=self._api,
            upstream=self._upstream,
        )

    def _make_api(self) -> FastAPI:
        api = FastAPI(title="Run gateway", lifespan=self._life, redirect_slashes=False, docs_url=None, redoc_url=None)
        api.include_router(docs_router())
        api.include_router(health_router(self._readiness))
        if self.settings.metrics_port is None:
            api.include_router(metrics_router(self.metrics))
        api.include_router(self._subscriptions.router())
        if self._flue is not None:
            api.include_router(self._flue.router(self._runs.list))
        api.include_router(self._runs.router())
        render_refusals(api)
        api.openapi = lambda: describe(api, auth=self._auth.on)  # type: ignore[method-assign]
        return api


class _Log:
    """The log as the routes see it."""

    def __init__(
        self,
        reader: Reader,
        writer: Writer,
        lifecycle: Lifecycle,
        heard: Callable[[News], None],
        subscriptions: Subscriptions,
    ) -> None:
        self._lifecycle = lifecycle
        self._heard = heard
        self._subscriptions = subscriptions
        self.append = writer.append
        self.submit = writer.submit
        self.read = reader.read
        self.stat = reader.stat

    async def create(self, request: CreateRequest) -> Created:
        created = await self._lifecycle.create(request)
        if created.new and created.tail:
            self._subscriptions.appended(request.path)
        return created

    async def delete(self, path: str) -> None:
        await self._lifecycle.delete(path)
        self._heard(News(path, 0, 0, deleted=True))
        self._subscriptions.deleted(path)


def create_app(
    settings: Settings,
    database_url: str,
    listen_database_url: str | None = None,
    siblings: Siblings | None = None,
) -> Gateway:
    """The application of one Machine over a migrated database. `siblings`: other workers that share its port."""
    return Gateway(settings, database_url, listen_database_url, siblings)
