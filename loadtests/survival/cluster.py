"""A Postgres with a standby, both at one address: it is lost, handed over, or lost while the standby lags.

There may be a replica that is read, at an address of its own: it is paused, and promoted.

Law: after each act one server answers at the address, on a timeline of its own, another one follows it, and the replica
follows that one.
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
# What a Machine would do that took it for the log: an event for each open stream, and the end of the others.
_STRANGE = """
    WITH strange AS (DELETE FROM run_gateway.streams WHERE closed AND fork_source IS NULL RETURNING id)
    SELECT count(run_gateway.append_one(
               s.path, s.media_type, false, NULL, NULL, NULL, NULL, ARRAY['{"n":666}'::bytea], NULL))
      FROM run_gateway.streams s WHERE NOT s.closed
"""
_EVENTS = "SELECT coalesce(sum(tail), 0) FROM run_gateway.streams"


class Cluster(Database):
    """`synchronous`: what was acknowledged is at the standby, too. `way` is the address, which stays the same; `near`
    that of the replica, if there is one.
    """

    def __init__(
        self,
        all_of_them: Servers,
        way: Proxy,
        primary: Server,
        standby: Server,
        synchronous: bool,
        near: Proxy | None = None,
        replica: Server | None = None,
    ) -> None:
        self.near = near
        self._replica = replica
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
        if self._replica is not None:
            await self._replica.stop_following()  # or else it would be the one that confirms
        self._standby = await self._servers.standby(self._primary, synchronous=self._synchronous)
        if self._replica is not None:
            await self._replica.follow(self._standby)

    async def pause_replica(self, seconds: float) -> None:
        """It lags for so long."""
        assert self._replica is not None, "it is paused where there is one"
        replica = self._replica
        await replica.fetchval("SELECT pg_wal_replay_pause()")
        await asyncio.sleep(seconds)
        await replica.fetchval("SELECT pg_wal_replay_resume()")

    async def promote_replica(self, seconds: float) -> None:
        """By mistake: it is nobody's primary, and somebody writes there. In the end there is another one."""
        assert self._replica is not None and self.near is not None, "it is promoted where there is one"
        replica = self._replica
        await replica.promote()
        await replica.fetchval(_STRANGE)
        await asyncio.sleep(seconds)
        self._replica = await self._servers.standby(self._standby)
        self.near.target = f"tcp://127.0.0.1:{self._replica.port}"
        self.near.cut()
        self._servers.forget(replica)

    async def _promote(self) -> None:
        await self._standby.promote()
        self._way.target = f"tcp://127.0.0.1:{self._standby.port}"
        self._way.cut()
        self._servers.forget(self._primary)
        self._primary = self._standby


@asynccontextmanager
async def open_cluster(*, synchronous: bool, replica: bool = False) -> AsyncIterator[Cluster]:
    """Over Debian's Postgres, migrated, gone afterwards. `replica`: there is one, which follows the standby."""
    async with servers() as all_of_them:
        primary = await all_of_them.primary()
        await migrate(primary.url)
        standby = await all_of_them.standby(primary, synchronous=synchronous)
        async with Proxy(f"tcp://127.0.0.1:{primary.port}") as way:
            if not replica:
                yield Cluster(all_of_them, way, primary, standby, synchronous)
                return
            read = await all_of_them.standby(standby)
            async with Proxy(f"tcp://127.0.0.1:{read.port}") as near:
                yield Cluster(all_of_them, way, primary, standby, synchronous, near, read)
