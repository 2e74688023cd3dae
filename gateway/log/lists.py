"""Lists: questions for a page of many rows, which may look through all rows of a tenant to find it.

They have a small share of the pool and little time, so that no list delays appends or reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

import asyncpg

from gateway.log.connect import FAULTS
from gateway.log.database import Database
from gateway.log.turns import LongWork
from gateway.protocol.errors import ListTooSlow, TooManyLists

if TYPE_CHECKING:
    from gateway.log.database import Pooled

MOST: Final = 2  # at once
SECONDS: Final = 2.0  # for each
EACH_TENANT: Final = 8  # under way and waiting
ALL: Final = 32  # the same of all tenants


class Lists:
    """Lists are long work, `most` of it at one time; others wait, a few of each tenant. `seconds`: the database's for
    one.
    """

    def __init__(self, database: Database, *, most: int = MOST, seconds: float = SECONDS) -> None:
        self.under_way = 0
        self._database = database
        self.work: Final = LongWork(most)
        # Each is planned for what it asks for: a plan for any user of a tenant may look through all of its runs.
        # None is compiled, which takes longer than most lists.
        self._settings = (
            f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))};"
            " SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off"
        )
        self._asked: Counter[str] = Counter()  # by tenant

    async def fetch(
        self, tenant: str, statement: str, *arguments: object, first: Callable[[], Awaitable[None]] | None = None
    ) -> list[asyncpg.Record]:
        """The rows of a statement that only reads. `first`: what has to be waited for before, which takes no share of
        the pool, and may raise Unavailable. Raises TooManyLists, ListTooSlow, Unavailable.
        """
        if self._asked[tenant] >= EACH_TENANT or self._asked.total() >= ALL:
            raise TooManyLists
        self._asked[tenant] += 1
        try:
            if first is not None:
                await first()
            async with self.work.turn(tenant):
                return await self._fetch(tenant, statement, *arguments)
        finally:
            self._asked[tenant] -= 1
            if not self._asked[tenant]:
                del self._asked[tenant]

    async def _fetch(self, tenant: str, statement: str, *arguments: object) -> list[asyncpg.Record]:
        self.under_way += 1
        try:
            async with self._database.acquire(tenant) as connection:
                try:
                    async with _under(self._settings, connection):
                        rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
                        return rows
                except asyncpg.QueryCanceledError:
                    raise ListTooSlow from None
        finally:
            self.under_way -= 1


@asynccontextmanager
async def _under(settings: str, connection: Pooled) -> AsyncIterator[None]:
    """A transaction with settings of its own. The driver's would take a round trip more."""
    if connection.is_in_transaction():  # where those of the role are stricter
        await connection.execute(settings)
        yield
        return
    await connection.execute(f"BEGIN; {settings}")
    try:
        yield
    except BaseException:
        with suppress(*FAULTS):  # the connection may be lost
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")
