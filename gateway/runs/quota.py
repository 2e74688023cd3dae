"""The number of runs of a tenant: counted by the database every few seconds, and here in between.

Runs come at the end and go anywhere. So only the newest are counted again and again; the others when the tenant has
too many by that, which is when it matters how many of them have gone. A million takes a tenth of a second of the
database's time: it is counted in pieces, each of which is a short statement.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from gateway.fanout.single_flight import Shared
from gateway.log.database import Database

# Along the index of the tenant's runs: see store._LIST. The pair tells where in it to begin.
_COUNT: Final = """
    SELECT count(*) AS runs, max(c.stream) AS last
      FROM (SELECT r.stream FROM run_gateway.runs r WHERE (r.tenant, r.stream) > ($1, $2) AND r.tenant <= $1
             ORDER BY r.tenant, r.stream LIMIT $3) c
"""
_EXISTS: Final = "SELECT EXISTS (SELECT 1 FROM run_gateway.streams WHERE path = $1)"
MOST: Final = 10_000  # tenants that are remembered; of one that is forgotten the database is asked again
PIECE: Final = 20_000  # runs that one statement counts, in some 2 ms
_FRESH: Final = 5.0  # seconds that a count is good for; only then are deletions and other Machines' runs seen
_REST: Final = 20.0  # times as long as it took, or _FRESH if that is more, until all are counted again


@dataclass(slots=True)
class _Known:
    """A tenant's count of runs. `until`, `again`: when its newest runs, and all of them, may be counted again, in
    monotonic seconds.
    """

    runs: int = 0
    until: float = 0.0
    settled: int = 0  # runs in whole pieces
    upto: int = 0  # the last one of these
    again: float = 0.0
    count: Shared[None] | None = None  # under way


class RunQuota:
    """A limit of `limit` runs for each tenant, give or take what several Machines make within _FRESH seconds."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._known: dict[str, _Known] = {}

    async def full(self, tenant: str, path: str | None) -> bool:
        """True if the tenant may not make the run at `path`, or, when that is None, one more. A run that it has already
        may be asked for again. Raises Unavailable.
        """
        known = self._note(tenant)
        if known.until <= time.monotonic():
            if known.count is None or known.count.task.done():
                known.count = Shared(self._count(tenant, known))  # once for all that ask
            await known.count.result()
        if known.runs < self._limit:
            known.runs += 1
            return False
        if path is None:
            return True
        async with self._database.acquire(tenant) as connection:
            return not await connection.fetchval(_EXISTS, path)

    def _note(self, tenant: str) -> _Known:
        known = self._known.pop(tenant, None) or _Known()
        self._known[tenant] = known  # the oldest stand first
        if len(self._known) > MOST:
            del self._known[next(iter(self._known))]
        return known

    async def _count(self, tenant: str, known: _Known) -> None:
        began = time.monotonic()
        everything = not known.upto
        found = await self._count_on(tenant, known.settled, known.upto)
        if found[0] >= self._limit and not everything and known.again <= began:
            everything = True
            found = await self._count_on(tenant, 0, 0)
        now = time.monotonic()
        known.runs, known.settled, known.upto = found
        known.until = now + _FRESH
        if everything:
            known.again = now + max((now - began) * _REST, _FRESH)

    async def _count_on(self, tenant: str, settled: int, upto: int) -> tuple[int, int, int]:
        """Counts those after `upto`, of which and of those before there are `settled`, as far as the limit.

        Returns how many there are, and `settled` and `upto` after the last whole piece.
        """
        while True:
            async with self._database.acquire(tenant) as connection:
                row = await connection.fetchrow(_COUNT, tenant, upto, PIECE)
            assert row is not None, "an aggregate is one row"
            runs = settled + row["runs"]
            if row["runs"] < PIECE or runs >= self._limit:
                return runs, settled, upto
            settled, upto = runs, row["last"]
