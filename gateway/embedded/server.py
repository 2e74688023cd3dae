"""The Postgres of a home that is ours: begun when no earlier one is left, and ended whatever it takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg

from gateway.embedded.errors import EmbeddedPostgresError
from gateway.embedded.folders import claim, give
from gateway.embedded.home import PORT, Home, clear_runtime
from gateway.embedded.launch import launch
from gateway.embedded.locks import try_lock, wait_for
from gateway.embedded.server_log import ServerLog

logger = logging.getLogger("gateway.embedded")

START_PATIENCE = 300.0  # a crash recovery may replay SETTINGS' max_wal_size and more

if sys.platform != "win32":
    # "Fast", "immediate", and without asking; each with the seconds that it has to work.
    STOP_LADDER = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))

# Given on the command line, which outranks every file in the data folder.
SETTINGS = {
    "listen_addresses": "",
    "port": str(PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_checkpoints": "off",
}

INITDB_OPTIONS = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-instructions"]

# InternalClientError is asyncpg's own confusion when a server goes away in the middle.
NO_ANSWER = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


async def answers(home: Home) -> bool:
    """True if clients are served. The status file is asked first: refused connections would fill the log."""
    if not home.cluster.says_ready():
        return False
    try:
        connection = await asyncpg.connect(home.dsn, timeout=10)
        await connection.close()
    except NO_ANSWER:
        return False  # it has ended, or is about to; or an operator has ended this very connection
    return True


class Server:
    """A Postgres that is a child of this process, between `begin` and `end`."""

    def __init__(self, home: Home, log: ServerLog) -> None:
        self._home = home
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The pid of the postmaster."""
        return self._process.pid if self._process is not None else None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last postmaster, when it has ended by itself."""
        return self._process.poll() if self._process is not None else None

    async def begin(self, *, create: bool) -> None:
        """Starts Postgres, and returns when it answers. `create`: whether a new cluster may be made."""
        cluster = self._home.cluster
        lock = await self._wait_for_predecessor()
        try:
            self._log.begin()
            if not cluster.exists():
                if not create:
                    raise EmbeddedPostgresError(f"The data has gone from {cluster}.")
                await self._initialise(lock)
            give(cluster.folder, self._home.account)
            cluster.clear_leftovers()
            clear_runtime(self._home.runtime)
            claim(self._home.runtime, self._home.uid)
            settings = SETTINGS | {"unix_socket_directories": str(self._home.runtime)}
            options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
            self._process = self._launch("postgres", cluster.folder, options, lock, signal.SIGINT)
        finally:
            os.close(lock)  # from here on Postgres alone holds it
        await self._wait_until_ready(self._process)

    async def end(self, *, immediate: bool = False) -> None:
        """Stops it, cleanly if it can; "immediate" is a crash that the next start recovers from. May be repeated."""
        if self._process is None:
            return
        for number, patience in STOP_LADDER[1:] if immediate else STOP_LADDER:
            self._process.send_signal(number)  # does nothing when it has ended
            if await wait_for(self._process.poll, patience) is not None:
                break
            logger.warning("Postgres on %s has not ended %.0f s after %s", self._home.cluster, patience, number.name)
        self._process = None

    async def _wait_for_predecessor(self) -> int:
        """Takes the lock that says that no process of an earlier Postgres is left; one that lingers is told to end."""
        cluster = self._home.cluster
        for number, patience in ((0, 2.0), *STOP_LADDER):
            pid = cluster.postmaster_pid()
            if pid is not None and (sys.platform != "linux" or cluster.runs_here(pid)):
                with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, the pid is another's
                    os.kill(pid, number)
            lock = await wait_for(lambda: try_lock(self._home.postgres_lock), patience)
            if lock is not None:
                return lock
        raise EmbeddedPostgresError(f"An earlier Postgres on {cluster} does not end.")

    async def _initialise(self, lock: int) -> None:
        """initdb, in a folder of its own that becomes the cluster when it is whole."""
        logger.info("making a new cluster of Postgres %s", self._home.binaries.version)
        room = self._home.cluster.room()
        give(room, self._home.account)
        process = self._launch("initdb", room, INITDB_OPTIONS, lock, signal.SIGKILL)
        try:
            code = await wait_for(process.poll, START_PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        if code != 0:
            raise self._log.failure("initdb failed")
        self._home.cluster.move_in(room)

    def _launch(
        self, program: str, cluster: Path, options: list[str], lock: int, death: signal.Signals
    ) -> subprocess.Popen[bytes]:
        with self._log.open() as log:
            return launch(
                self._home.binaries.folder / program,
                cluster,
                options,
                account=self._home.account,
                lock=lock,
                death=death,
                log=log,
            )

    async def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + START_PATIENCE
        while not await answers(self._home):
            if process.poll() is not None or clock() > deadline:
                await self.end()
                raise self._log.failure(f"Postgres did not start (exit code {process.returncode})")
            await asyncio.sleep(0.01)
