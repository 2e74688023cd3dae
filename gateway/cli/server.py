"""One Machine as a process: sockets, database, application, begun in this order and ended in reverse.

The first SIGTERM or SIGINT begins the drain at once, since uvicorn ends the application only after its
connections have ended, and live responses end only when the application lets them. A second SIGINT waits for
nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterator

import click
import uvicorn
import uvloop

from gateway.app import create_app
from gateway.cli.database import database, update
from gateway.cli.endings import Failure
from gateway.cli.listening import address, bind
from gateway.fanout.transport import DirectProtocol
from gateway.settings import Settings


def run(settings: Settings) -> int:
    """Serve until a signal says otherwise; the exit code. Raises Failure."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = _Stop()
    with stop.on_signals():
        try:
            async with contextlib.AsyncExitStack() as stack:
                sockets = bind(settings.host, settings.port)
                for sock in sockets:
                    stack.callback(sock.close)
                # Port 0 has become a real one, and the application names its own address to others.
                settings = settings.model_copy(update={"port": sockets[0].getsockname()[1]})
                url = await stack.enter_async_context(database(settings))
                if settings.migrate or settings.database_url is None:
                    await update(url)
                await _serve(settings, url, sockets, stop)
        except asyncio.CancelledError:
            if not stop.asked:
                raise
    return 0


async def _serve(settings: Settings, url: str, sockets: list[socket.socket], stop: _Stop) -> None:
    app = create_app(settings, url, settings.listen_database_url)
    app.address = address(sockets[0])
    server = _Server(
        uvicorn.Config(
            app,
            http=DirectProtocol,
            loop="uvloop",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            backlog=4096,
            # Longer than proxies keep an idle connection: it is they who end it, between requests.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
        ),
        ready=f"Listening on {address(sockets[0])}",
    )
    stop.serve(server, app.begin_drain)
    try:
        await server.serve(sockets)
    except OSError as error:
        await server.lifespan.shutdown()
        raise Failure(f"cannot listen on {address(sockets[0])}: {error.strerror}") from error
    except SystemExit:  # how uvicorn tells that the application did not start; it has logged why
        raise Failure("the application did not start") from None


class _Server(uvicorn.Server):
    """uvicorn, without its own handling of signals (it raises them again), and saying when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            click.echo(self._ready)


class _Stop:
    """What a signal means: at first there is only work to abandon, then there is a server to drain."""

    def __init__(self) -> None:
        self.asked = False
        self._task = asyncio.current_task()
        self._server: uvicorn.Server | None = None
        self._begin_drain: Callable[[], None] | None = None

    def serve(self, server: uvicorn.Server, begin_drain: Callable[[], None]) -> None:
        """From now on there is a server."""
        self._server, self._begin_drain = server, begin_drain

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT until the very end, the stop of an embedded database included."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _signal(self, number: signal.Signals) -> None:
        first, self.asked = not self.asked, True
        if self._server is None:
            if first and self._task is not None:
                self._task.cancel()
        elif first:
            self._server.should_exit = True
            if self._begin_drain is not None and self._server.started:
                self._begin_drain()
        elif number == signal.SIGINT:
            self._server.force_exit = True
            # What is cancelled from here on is cancelled on purpose, and no error of the application's.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
