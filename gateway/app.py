"""The one place where everything is wired together: the log, the hub, and the routes of one Machine."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from gateway.auth.face import Auth
from gateway.auth.gate import let_in
from gateway.auth.rules import ours
from gateway.descriptors import room_for
from gateway.fanout.hub import Hub, Published
from gateway.fanout.transport import Cycle
from gateway.flue.face import Flue
from gateway.flue.routes import Routes
from gateway.http import request_log, responses
from gateway.http.cors import Cors, is_preflight
from gateway.http.docs import docs_router
from gateway.http.health import Health, health_router
from gateway.http.openapi import describe
from gateway.http.reading import Limits
from gateway.http.responses import Receive, Scope, Send, Sending
from gateway.http.streams import StreamRoutes
from gateway.http.upstream import Upstream
from gateway.limits import Quotas
from gateway.limits.face import open_at
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
from gateway.protocol.errors import Draining, InternalFault, MethodNotAllowed, ProtocolError, RouteNotFound, Unavailable
from gateway.protocol.request import CreateRequest, stream_path_of
from gateway.runs import Runs
from gateway.runs.quota import RunQuota
from gateway.settings import Settings
from gateway.subscriptions import Subscriptions

logger = logging.getLogger("gateway.app")

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
        self._routes: Routes = self._runs.streams
        self._append_directly = self._streams.append_directly
        if self._flue is not None:
            routes = self._flue.routes(self._routes, self._append_directly, self._reader.stat)
            self._routes, self._append_directly = routes, routes.append_directly
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
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        if self._upstream is not None and not ours(scope["path"]):
            await self._passed_on(self._upstream, scope, receive, send)
            return
        sending = responses.carrying(scope, send, self.cors.common(scope))
        if self._quotas.addresses is None:
            await self._answer(scope, receive, sending)
            return
        try:
            address = open_at(self._quotas.addresses, scope)
        except ProtocolError as error:
            await responses.refuse(scope, sending, error)
            return
        with self._quotas.addresses.one(address):
            await self._answer(scope, receive, sending)

    async def _answer(self, scope: Scope, receive: Receive, sending: Sending) -> None:
        if is_preflight(scope):
            await responses.preflight(sending)
            return
        if not self._auth.on and not self._quotas.judging:
            let_in(scope)
        elif not await self._admit(scope, sending):
            return
        path = stream_path_of(scope["path"])
        if path is not None and not path.startswith("__ds/") and path != "__ds":
            await self._stream(path, scope, receive, sending)
        else:
            await self._described(scope, receive, sending)

    async def _passed_on(self, upstream: Upstream, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await upstream(scope, receive, send)  # whose answers are not ours, and carry what they do
        except ProtocolError as error:
            await responses.refuse(scope, responses.carrying(scope, send, self.cors.common(scope)), error)

    async def _admit(self, scope: Scope, send: Send) -> bool:
        """Whether the request is let in; if not, it is answered."""
        try:
            principal = await self._auth.admit(scope)
            let_in(scope, principal)
            if self._quotas.judging:
                await self._quotas.judge(scope, principal)
        except Exception as error:  # noqa: BLE001  logged with its traceback, unless it is a refusal
            await responses.refuse(scope, send, self._fault(scope, error))
            return False
        return True

    @staticmethod
    def _fault(scope: Scope, error: Exception) -> ProtocolError:
        """What the client is told of it."""
        if isinstance(error, ProtocolError):
            return error
        request_log.failed(scope, error)
        return InternalFault()

    def append_directly(self, cycle: Cycle) -> bool:
        """What gateway.fanout.transport offers each POST to."""
        try:
            path = stream_path_of(cycle.scope["path"])
            if path is None or path.startswith("__ds"):
                return False
            responses.note(cycle.scope, self.cors.common(cycle.scope))
            principal = self._auth.known(cycle.scope, path)
            if principal is None or self._quotas.judging:
                return False
            return self._append_directly(path, principal.tenant, cycle)
        except Exception as error:  # noqa: BLE001  logged with its traceback
            request_log.failed(cast("Scope", cycle.scope), error)
            responses.refuse_directly(cycle, InternalFault())
            return True

    async def _stream(self, path: str, scope: Scope, receive: Receive, send: Sending) -> None:
        try:
            await self._routes(path, scope, receive, send)
        except asyncio.CancelledError:
            if send.begun:
                raise
            await responses.refuse(scope, send, Draining())  # the server waits no longer; another Machine may answer
        except Exception as error:
            if send.begun:
                raise  # nothing true can be said any more: the connection is closed
            await responses.refuse(scope, send, self._fault(scope, error))

    async def _described(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(Exception):  # raised again by Starlette when `_render_fault` has logged and answered it
            await self._api(scope, receive, send)

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
        api.add_exception_handler(ProtocolError, _render)
        api.add_exception_handler(HTTPException, _render_http)
        api.add_exception_handler(Exception, _render_fault)
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


async def _render(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProtocolError)
    headers, body = responses.refusal(request.scope, error)
    response = Response(body, status_code=error.status)
    response.raw_headers = [
        *headers,
        (b"content-length", b"%d" % len(body)),
    ]
    return response


async def _render_fault(request: Request, error: Exception) -> Response:
    request_log.failed(request.scope, error)
    return await _render(request, InternalFault())


async def _render_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return await _render(request, MethodNotAllowed(None, [(b"allow", allow.encode())]))
    return await _render(request, RouteNotFound())


def create_app(
    settings: Settings,
    database_url: str,
    listen_database_url: str | None = None,
    siblings: Siblings | None = None,
) -> Gateway:
    """The application of one Machine over a migrated database. `siblings`: other workers that share its port."""
    return Gateway(settings, database_url, listen_database_url, siblings)
