"""PgBouncer in front of a database, for one test; the program is tests/tools/pgbouncer.py's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.host import unless_ci
from tests.tools.pgbouncer import PROGRAM, PgBouncer


@asynccontextmanager
async def pgbouncer(database_url: str, *, mode: str = "transaction", size: int = 4) -> AsyncIterator[PgBouncer]:
    """One that answers. Skips the test where there is no PgBouncer, which CI takes for a failure."""
    if PROGRAM is None:
        unless_ci("pgbouncer is not installed")
    async with PgBouncer.start(database_url, mode=mode, size=size) as pooler:
        yield pooler
