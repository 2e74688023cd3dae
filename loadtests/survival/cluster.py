"""A Postgres with a standby, both at one address: it is lost, handed over, or lost while the standby lags.

Law: after each act one server answers at the address, on a timeline of its own, and another one follows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

from gateway.log.migrations import migrate
from tests.failover.servers import Server, Servers, servers, until
from tests.tools.database import Database
from tests.tools.proxy import Proxy

_WRITTEN = 5.0  # seconds in which somebody appends, if there is anybody
_EVENTS = "SELECT coalesce(sum(tail), 0) FROM run_gateway.streams"


class Cluster(Database):
    """`synchronous`: what was acknowledged is at the standby, too. `way` is the address, which stays the same."""

    def __init__(self, all_of_them: Servers, way: Proxy, primary: Server, standby: Server, synchronous: bool) -> None:
        super().__init__(f"postgresql://postgres@127.0.0.1:{way.port}/postgres", None)
        self._servers = all_of_them
        self._way = way
        self._primary = primary
        self._standby = standby
        self._synchronous = synchronous

    @property
    def own(self) -> bool:
        return True

    async def restart(self, mode: Literal["fast", "immediate"]) -> None:
        await asyncio.to_thread(self._primary.shut_down if mode == "fast" else self._primary.abort)
        await self._primary.start()

    async def fail_over(self) -> None:
        """The primary's host is lost, and its standby is promoted."""
        await asyncio.to_thread(self._primary.kill)
        await self._promote()

    async def hand_over(self, seconds: float) -> None:
        """As a provider does for its maintenance: read-only for so long, shut down in order, then another server."""
        await self._primary.configure(default_transaction_read_only="on")
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self._primary.shut_down)
        await self._promote()

    async def fall_behind(self) -> None:
        """Returns when the standby lacks events, if anybody writes, and has all that had been acknowledged before."""
        await self._standby.has_all_of(self._primary)
        await self._standby.stop_following()
        with suppress(TimeoutError):
            async with asyncio.timeout(_WRITTEN):
                await until(self._primary, f"SELECT ({_EVENTS}) > {await self._standby.fetchval(_EVENTS)}")

    async def has_follower(self) -> None:
        """Gives the server at the address a standby, in place of the one that it was."""
        self._standby = await self._servers.standby(self._primary, synchronous=self._synchronous)

    async def _promote(self) -> None:
        await self._standby.promote()
        self._way.target = f"tcp://127.0.0.1:{self._standby.port}"
        self._way.cut()
        self._servers.forget(self._primary)
        self._primary = self._standby


@asynccontextmanager
async def open_cluster(*, synchronous: bool) -> AsyncIterator[Cluster]:
    """Over Debian's Postgres, migrated, gone afterwards."""
    async with servers() as all_of_them:
        primary = await all_of_them.primary()
        await migrate(primary.url)
        standby = await all_of_them.standby(primary, synchronous=synchronous)
        async with Proxy(f"tcp://127.0.0.1:{primary.port}") as way:
            yield Cluster(all_of_them, way, primary, standby, synchronous)
