"""The Postgres of a data folder, for its users: owned by one gateway, and inherited by the next when that one dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from gateway.embedded.errors import EmbeddedPostgresError
from gateway.embedded.home import Home, find_home
from gateway.embedded.locks import try_lock
from gateway.embedded.room import Room
from gateway.embedded.server import START_PATIENCE, Server, answers
from gateway.embedded.server_log import ServerLog

logger = logging.getLogger("gateway.embedded")

POLL = 0.25  # seconds between two looks at the owner's lock and at our own Postgres


class EmbeddedPostgres:
    """The Postgres of one data folder: started here, or attached to when another living gateway owns it.

    As a context manager it is running inside. `on_takeover` is called when an attached gateway has become the owner.
    `free`: bytes that the disk has left; by default it is asked.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        on_takeover: Callable[[], None] | None = None,
        free: Callable[[], int] | None = None,
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self.log_file = self.data_dir / "postgres.log"
        self._on_takeover = on_takeover
        self._free = free
        self._found: tuple[Home, Server] | None = None
        self._owner_lock: int | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def dsn(self) -> str:
        """The address of Postgres: equal for every owner and after every restart."""
        return self._home.dsn

    @property
    def owner(self) -> bool:
        """True if Postgres is this gateway's to start and stop."""
        return self._owner_lock is not None

    @property
    def version(self) -> str:
        """The version of the binaries: 18.6."""
        return self._home.binaries.version

    @property
    def pid(self) -> int | None:
        """The pid of the postmaster, when it is a child of this process."""
        return self._found[1].pid if self._found is not None else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> str:
        """Starts Postgres or attaches to it; returns the DSN once it answers. Raises EmbeddedPostgresError."""
        if self._keeper is not None:
            return self.dsn
        try:
            home = find_home(self.data_dir)
            self._found = home, Server(home, ServerLog(self.log_file))
            await self._start_or_attach()
        except OSError as error:
            await self.stop()
            raise EmbeddedPostgresError(
                f"Postgres cannot be started in {self.data_dir}: {error}. "
                "Choose another data folder, or set DATABASE_URL to use a Postgres of your own."
            ) from error
        except BaseException:
            await self.stop()
            raise
        self._room = Room(home, self._free)
        if self.owner and self._server.pid is not None:
            with contextlib.suppress(OSError):  # of a disk that is full already; it is looked at again soon
                self._room.look(self._server.pid)  # at once, since what it writes down first needs room
        self._keeper = asyncio.create_task(self._keep(), name="embedded-postgres")
        return self.dsn

    async def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stops what we own; "immediate" is a crash that the next start recovers from. May be repeated."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        try:
            if self._found is not None:
                await self._server.end(immediate=mode == "immediate")
        finally:
            self._disown()

    @property
    def _home(self) -> Home:
        return self._started()[0]

    @property
    def _server(self) -> Server:
        return self._started()[1]

    def _started(self) -> tuple[Home, Server]:
        if self._found is None:
            raise EmbeddedPostgresError("The embedded Postgres has not been started.")
        return self._found

    # Owning, attaching, taking over

    async def _start_or_attach(self) -> None:
        home = self._home
        clock = asyncio.get_running_loop().time
        begin = clock()
        told = False
        while clock() < begin + START_PATIENCE:
            if self._own():
                await self._server.begin(create=True)
                logger.info("Postgres %s runs on %s", self.version, home.cluster)
                return
            if await answers(home):
                logger.info("attached to the Postgres that another gateway runs on %s", home.cluster)
                return
            if not told and clock() > begin + 2.0:
                told = True
                logger.warning("another gateway owns %s: waiting for its Postgres at %s", home.folder, home.runtime)
            await asyncio.sleep(0.05)
        raise EmbeddedPostgresError(
            f"Another process holds {home.owner_lock}, but no Postgres answers at {home.runtime}. "
            "Does it run in a container with another /tmp?"
        )

    def _own(self) -> bool:
        if self._owner_lock is None:
            self._owner_lock = try_lock(self._home.owner_lock)
        return self.owner

    def _disown(self) -> None:
        if self._owner_lock is not None:
            with contextlib.suppress(OSError):  # another gateway's Postgres may have its socket there by now
                self._home.runtime.rmdir()
            os.close(self._owner_lock)
            self._owner_lock = None

    async def _keep(self) -> None:
        """Owner: start Postgres again when it has died. Attached: take over when the owner has gone."""
        delay = POLL
        while True:
            await asyncio.sleep(delay)
            try:
                await self._look_after()
            except Exception:  # whatever it is, the next try may succeed, and readers wait for it
                delay = min(max(1.0, delay * 2), 30.0)
                logger.exception("Postgres on %s is not running; next try in %.0f s", self._home.cluster, delay)
            else:
                delay = POLL

    async def _look_after(self) -> None:
        if self.owner:
            if not self._server.runs:
                logger.error(
                    "Postgres on %s is not running (exit code %s): starting it again",
                    self._home.cluster,
                    self._server.exit_code,
                )
                await self._server.begin(create=False)
            elif self._server.pid is not None:
                self._room.look(self._server.pid)
        elif self._own():
            logger.warning("the owner of %s has gone: taking over", self.data_dir)
            try:
                await self._server.begin(create=False)
            except BaseException:
                self._disown()  # another attached gateway may have more luck
                raise
            logger.warning("this gateway now runs Postgres on %s", self._home.cluster)
            if self._on_takeover is not None:
                self._on_takeover()
