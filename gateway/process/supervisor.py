"""Several Machines on one port: each is a worker process, and this parent starts, replaces and ends them.

The parent binds the port and keeps it; workers inherit it, and the kernel hands each connection to one that is free
to accept. There is one shared queue, not one for each worker (SO_REUSEPORT): a worker that dies would take its own
queue with it, whereas here others accept what it has not, or the worker that replaces it. A worker accepts a few of
those that wait in each turn of its loop (`gateway.wire.accepting`), so that a busy one leaves the rest to an idle one.

Requests never pass through the parent, and a worker needs it only to be told to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import click

from gateway.owner.shared import Workers
from gateway.process.exit_codes import Failure
from gateway.process.signals import Stop
from gateway.process.sockets import Sockets, address, announcement
from gateway.process.worker import Orders
from gateway.settings import Settings

logger = logging.getLogger("gateway.process.supervisor")

GRACE = 5.0
"""Seconds beyond the drain that a worker has to end; one that has not is stuck, and is killed."""
STEADY = 30.0
"""Seconds after which a worker's death is an accident, and not the next of a row."""
LONGEST_PAUSE = 10.0
"""Seconds, at most, before a worker that keeps dying is replaced."""


async def supervise(settings: Settings, url: str, sockets: Sockets, stop: Stop) -> None:
    """Serves with `settings.workers` processes until told to stop. Raises Failure."""
    with tempfile.TemporaryDirectory(prefix="run-gateway-", ignore_cleanup_errors=True) as folder:
        Workers.make(Path(folder))
        supervisor = _Supervisor(settings, url, sockets, folder)
        stop.serving(drain=supervisor.drain, force=supervisor.kill, read_again=supervisor.read_again)
        await asyncio.gather(*(supervisor.keep(number) for number in range(1, settings.workers + 1)))
    if supervisor.failure is not None:
        raise Failure(supervisor.failure)


class _Supervisor:
    def __init__(self, settings: Settings, url: str, sockets: Sockets, folder: str) -> None:
        self.failure: str | None = None
        self._count = settings.workers
        self._patience = settings.drain_delay + settings.handing_over + settings.longest_drain + GRACE
        self._sockets = sockets
        self._orders = Orders(settings.model_dump_json(), url, sockets.numbers(), 0, folder)
        self._ready = announcement(address(sockets.main[0]))
        self._expected = set(range(1, settings.workers + 1))  # to listen, before it is said that all do
        self._draining = asyncio.Event()
        self._workers: set[asyncio.subprocess.Process] = set()

    def drain(self) -> None:
        """Ends all workers at the same time."""
        self._draining.set()
        Workers.drain_all(Path(self._orders.folder))
        for sock in self._sockets:
            sock.close()  # else the port would accept, for nobody to answer
        for worker in self._workers:
            _terminate(worker)
        asyncio.get_running_loop().call_later(self._patience, self._lose_patience)

    def kill(self) -> None:
        """Kills what still runs: workers keep nothing that another Machine would miss."""
        for worker in self._workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()

    def read_again(self) -> None:
        """Hands SIGHUP on, by the pipe: a worker that has just begun would not survive the signal itself."""
        for worker in self._workers:
            assert worker.stdin is not None, "a pipe"
            worker.stdin.write(b"\n")

    def _lose_patience(self) -> None:
        if self._workers:
            self.failure = f"{len(self._workers)} of {self._count} workers did not end, and were killed"
            self.kill()

    async def keep(self, number: int) -> None:
        """Runs this worker, and another one in its place when it has died, until all are drained."""
        clock = asyncio.get_running_loop().time
        pause = 0.0
        while True:
            began = clock()
            try:
                reason = await self._run(number)
            except OSError as error:
                reason = f"could not be started: {error.strerror}"
            if self._draining.is_set():
                return
            if number in self._expected:  # it never listened: at the start an operator is there to be told, so give up
                self.failure = f"worker {number} {reason}"
                self.drain()
                return
            pause = 0.0 if clock() - began > STEADY else min(max(0.1, pause * 2), LONGEST_PAUSE)
            logger.error("worker %d %s; another one starts in %.1f s", number, reason, pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._draining.wait()
                return

    async def _run(self, number: int) -> str:
        """A worker's whole life, and what became of it."""
        async with self._worker(number) as worker:
            logger.info("worker %d is process %d", number, worker.pid)
            assert worker.stdout is not None, "a pipe"
            if await worker.stdout.readline():
                self._listens(number)
            return f"ended (exit code {await worker.wait()})"

    def _listens(self, number: int) -> None:
        if self._expected:
            self._expected.discard(number)
            if not self._expected:
                click.echo(self._ready)

    @contextlib.asynccontextmanager
    async def _worker(self, number: int) -> AsyncIterator[asyncio.subprocess.Process]:
        worker = await begun([descriptor for each in self._orders.sockets for descriptor in each])
        self._workers.add(worker)
        try:
            assert worker.stdin is not None, "a pipe"
            with contextlib.suppress(ConnectionError):  # it has ended already, which its exit code tells
                worker.stdin.write(replace(self._orders, number=number).line())
                await worker.stdin.drain()
            if self._draining.is_set():
                _terminate(worker)
            yield worker
        finally:
            self._workers.discard(worker)


async def begun(inherited: Sequence[int]) -> asyncio.subprocess.Process:
    """A worker that waits for its orders, and has these descriptors of ours."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # our own path as it is, and not the working folder before it
        "-m",
        "gateway.process.worker",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=inherited,
        start_new_session=True,  # a Ctrl-C in the terminal comes here, and from here to them: once
    )


def _terminate(worker: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.terminate()
