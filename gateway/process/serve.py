"""The run of `serve`: sockets, database, then one Machine here or several as workers, ended in reverse."""

from __future__ import annotations

import asyncio
import contextlib

import click
import uvloop

from gateway.process.checks import check
from gateway.process.database import database, must_be_there, must_listen, say_what_it_promises, update
from gateway.process.flue_app import fit, fit_agents
from gateway.process.signals import Stop
from gateway.process.sockets import Sockets, address, bind
from gateway.settings import Settings
from gateway.wire.descriptors import raise_limit


def run(settings: Settings) -> None:
    """Serves until a signal says otherwise. Raises Failure."""
    raise_limit()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(settings))


async def _run(settings: Settings) -> None:
    check(settings)
    stop = Stop(hangup=settings.keys_file is not None)
    with stop.on_signals():
        async with contextlib.AsyncExitStack() as stack:
            metrics = [] if settings.metrics_port is None else bind(settings.host, settings.metrics_port)
            sockets = Sockets(bind(settings.host, settings.port), metrics)
            for sock in sockets:
                stack.callback(sock.close)
            if metrics:
                click.echo(f"Metrics on {address(metrics[0])}/metrics")
            # Port 0 has become a real one, and the application names its own address to others.
            settings = settings.model_copy(update={"port": sockets.main[0].getsockname()[1]})
            url = await stack.enter_async_context(database(settings))
            if settings.migrate or settings.database_url is None:
                await update(url)
            else:
                await must_be_there(url)
            await say_what_it_promises(url)
            if settings.flue:
                await fit(url, settings)
            if settings.flue_agents:
                await fit_agents(url, settings)
            if settings.require_listen:
                await must_listen(url, settings.listen_database_url)
            if settings.workers > 1:
                from gateway.process.supervisor import supervise

                await supervise(settings, url, sockets, stop)
            else:
                # Imported here, since the web framework takes half a second, and a parent of workers does not need it.
                from gateway.process.server import serve

                await serve(settings, url, sockets, stop)
