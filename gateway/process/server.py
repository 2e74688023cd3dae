"""A Machine in this process: uvicorn and the application over sockets and a database that are there already.

A drain begins with the signal, since uvicorn ends the application only after its connections have ended, and live
responses end only when the application lets them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

import click
import uvicorn

from gateway.app import Gateway
from gateway.asgi import App
from gateway.http.connection import connections
from gateway.http.replay import Replay
from gateway.http.request_log import AccessLog
from gateway.process.exit_codes import Failure
from gateway.process.garbage import Garbage
from gateway.process.logs import identify
from gateway.process.memory import Memory
from gateway.process.metrics_port import metrics_port
from gateway.process.signals import Stop
from gateway.process.sockets import Sockets, address, announcement, check_listening
from gateway.settings import Settings
from gateway.wire.descriptors import room_for_connections
from gateway.wire.server import Server

if TYPE_CHECKING:
    from gateway.metrics.siblings import Siblings

logger = logging.getLogger("gateway.process.server")

LATE: Final = 3.0
"""Seconds after the drain in which responses may still end, before they are cut."""

GIVE_BACK: Final = 100
"""Ticks of uvicorn, ten a second, between looks whether memory can go back to the system."""


async def serve(settings: Settings, url: str, bound: Sockets, stop: Stop, siblings: Siblings | None = None) -> None:
    """Serves until told to stop; prints where it listens as soon as it does. Raises Failure."""
    app = Gateway(settings, url, settings.listen_database_url, siblings)
    app.address = address(bound.main[0])
    identify(machine=app.machine)
    with _asked_for(settings, app) as application:
        await _serve(settings, app, application, bound, stop)


async def _serve(settings: Settings, app: Gateway, application: App, bound: Sockets, stop: Stop) -> None:
    sockets = bound.main
    server = _Server(_config(settings, application, app), ready=announcement(address(sockets[0])))

    handing: asyncio.Task[None] | None = None
    left = settings.longest_drain

    def drain() -> None:
        if settings.drain_delay and server.started:
            logger.info("Leaving: /ready answers 503 for %g s before the port closes.", settings.drain_delay)
            app.leave()
            asyncio.get_running_loop().call_later(settings.drain_delay, hand_over)
        else:
            hand_over()

    def hand_over() -> None:
        nonlocal handing
        if not settings.handing_over or not server.started or server.force_exit:
            end()
        elif handing is None:
            logger.info("Giving away conversations, as soon as each is idle, for %g s at most.", settings.handing_over)
            handing = asyncio.ensure_future(app.hand_over())
            handing.add_done_callback(partial(handed_over, time.monotonic()))

    def handed_over(began: float, _: object) -> None:
        """Notes that recordings have had their time to end."""
        nonlocal left
        left = max(settings.drain_timeout, left - (time.monotonic() - began))
        server.config.timeout_graceful_shutdown = math.ceil(left + LATE)
        end()

    def end() -> None:
        logger.info("Draining: what is open has %g s to end.", settings.drain_timeout)
        server.should_exit = True
        if server.started:
            app.begin_drain()
            asyncio.get_running_loop().call_later(left, app.end_drain)

    def force() -> None:
        server.should_exit = server.force_exit = True
        if handing is not None:
            handing.cancel()
        # What breaks off from here on was meant to: there is nothing to report.
        logging.disable()

    stop.serving(drain=drain, force=force, read_again=app.read_keys_again)
    try:
        async with metrics_port(app.metrics, app.readiness, bound.metrics):
            await server.serve(sockets)
    except OSError as error:
        await server.lifespan.shutdown()
        raise Failure(f"cannot listen on {app.address}: {error.strerror}") from error  # the socket is closed by now
    except SystemExit:  # how uvicorn tells that the application did not start; it has logged why
        raise Failure("the application did not start") from None


def _config(settings: Settings, application: App, app: Gateway) -> uvicorn.Config:
    """The configuration with which uvicorn serves the application: the Gateway, and what is wrapped around it."""
    return uvicorn.Config(
        application,
        http=connections(
            request_timeout=settings.request_timeout,
            send_timeout=settings.send_timeout,
            max_head=settings.max_head,
            max_connections=room_for_connections(
                settings.max_connections, settings.pool_size + settings.recordings, 2 if settings.upstream else 1
            ),
            common=app.cors.constant,
            bodies=app.bodies,
            answers=app.answers,
            outflow=app.outflow,
        ),
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        headers=[("gateway-machine", "/".join(settings.place.values()))] if settings.place else [],
        backlog=4096,
        # Longer than proxies keep an idle connection, so that it is they who end it, between requests.
        timeout_keep_alive=math.ceil(settings.keep_alive),
        timeout_graceful_shutdown=math.ceil(settings.longest_drain + LATE),
    )


@contextlib.contextmanager
def _asked_for(settings: Settings, app: Gateway) -> Iterator[App]:
    """The application, and around it what a setting asks for: nothing, by default."""
    with contextlib.ExitStack() as stack:
        application: App = app
        if settings.traces:
            from gateway.tracing.export import tracer  # an extra, which `gateway.process.checks` has found to be there
            from gateway.tracing.spans import Traced

            application = Traced(application, stack.enter_context(tracer(app.machine, settings.place)), app.observe)
        elsewhere = settings.fly_region != settings.primary_region
        if settings.replay_appends and settings.fly_region and settings.primary_region and elsewhere:
            application = Replay(application, settings.primary_region)
        if settings.access_log:
            application = AccessLog(application)
        yield application


class _Server(Server):
    """uvicorn, without its own handling of signals (it raises them again), and saying when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready
        self._memory = Memory()
        self._garbage = Garbage()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % GIVE_BACK == 0:
            self._memory.give_back()
        self._garbage.tick(time.monotonic())
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        check_listening(sockets or ())
        self._garbage.begin(time.monotonic())
        if not self.should_exit:
            click.echo(self._ready)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._garbage.end()
        await super().shutdown(sockets)
