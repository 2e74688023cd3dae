"""The number of runs of a tenant: counted by the database every few seconds, and here in between."""

from __future__ import annotations

import time
from typing import Final

from gateway.log.database import Database

_COUNT: Final = "SELECT count(*) FROM (SELECT 1 FROM run_gateway.runs WHERE tenant = $1 LIMIT $2) counted"
_EXISTS: Final = "SELECT EXISTS (SELECT 1 FROM run_gateway.streams WHERE path = $1)"
MOST: Final = 10_000  # tenants that are remembered; of one that is forgotten the database is asked again
_FRESH: Final = 5.0  # seconds that a count is good for; only then are deletions and other Machines' runs seen


class RunQuota:
    """A limit of `limit` runs for each tenant, give or take what several Machines make within _FRESH seconds."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._counts: dict[str, tuple[int, float]] = {}  # by tenant; and until when it is good (monotonic seconds)

    async def full(self, tenant: str, path: str | None) -> bool:
        """True if the tenant may not make the run at `path`, or, when that is None, one more. A run that it has already
        may be asked for again. Raises Unavailable.
        """
        count, until = self._counts.get(tenant, (0, 0.0))
        now = time.monotonic()
        if until <= now:
            async with self._database.acquire(tenant) as connection:
                count, until = await connection.fetchval(_COUNT, tenant, self._limit), now + _FRESH
        if count < self._limit:
            self._note(tenant, count + 1, until)
            return False
        self._note(tenant, count, until)
        if path is None:
            return True
        async with self._database.acquire(tenant) as connection:
            return not await connection.fetchval(_EXISTS, path)

    def _note(self, tenant: str, count: int, until: float) -> None:
        self._counts.pop(tenant, None)  # so that the oldest stand first
        self._counts[tenant] = (count, until)
        if len(self._counts) > MOST:
            del self._counts[next(iter(self._counts))]
