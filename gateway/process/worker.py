"""A worker, one of several that share a port: `python -m gateway.process.worker`, started by the supervisor alone.

Its orders come as one JSON line on stdin. stdin then stays open as long as the parent lives: its end means what SIGTERM
means, on every platform, and however early or suddenly the parent died; another line means SIGHUP. Its `Listening on`
is for the parent, who reads its stdout.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import uvloop

from gateway.process.logs import log_to_stderr
from gateway.process.signals import Stop
from gateway.process.sockets import Sockets
from gateway.settings import Settings

STDIN = 0


@dataclass(frozen=True)
class Orders:
    """A worker's orders: `settings` as JSON, the address of the database, descriptors that it inherits, its number, and
    the folder where it meets the others.
    """

    settings: str = field(repr=False)
    database_url: str = field(repr=False)
    sockets: Sequence[Sequence[int]]
    number: int
    folder: str

    def line(self) -> bytes:
        """The orders as one line for a pipe: others see arguments and environments, and this may hold a password."""
        return json.dumps(asdict(self)).encode() + b"\n"


def main() -> None:
    """Serves as ordered; the exit code is that of `serve` without workers."""
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the parent has gone already
    orders = Orders(**json.loads(line))
    settings = Settings(**json.loads(orders.settings))
    log_to_stderr(settings, worker=orders.number)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_work(settings, orders))
    except click.ClickException as failure:
        failure.show()
        sys.exit(failure.exit_code)


async def _work(settings: Settings, orders: Orders) -> None:
    from gateway.metrics.siblings import Siblings
    from gateway.process.server import serve

    stop = Stop()
    with stop.on_signals():
        loop = asyncio.get_running_loop()

        def parent_speaks() -> None:
            if os.read(STDIN, 4096):
                stop.hang_up()
            else:  # it has gone
                loop.remove_reader(STDIN)
                stop.signal(signal.SIGTERM)

        loop.add_reader(STDIN, parent_speaks)
        siblings = Siblings(Path(orders.folder), orders.number)
        await serve(settings, orders.database_url, Sockets.inherited(orders.sockets), stop, siblings)


if __name__ == "__main__":
    main()
