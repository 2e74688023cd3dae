"""A synchronous standby that confirms nothing: no success is told, and no reader is shown what a failover may lose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway.log.connect import Unconfirmed
from gateway.log.migrations import migrate
from gateway.protocol.errors import NotSent, Unavailable
from tests.databases import OwnPostgres
from tests.log.rig import connected, opened


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[OwnPostgres]:
    """A migrated server of the test's own."""
    own = OwnPostgres(tmp_path)
    await own.start()
    try:
        await migrate(own.url)
        yield own
    finally:
        await own.stop("immediate")


async def standby(server: OwnPostgres, name: str) -> None:
    """Has commits wait for a standby of this name; there is none."""
    async with connected(server.url) as connection:
        await connection.execute("SET synchronous_commit = local; SET statement_timeout = 0")
        await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        await connection.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(60), connected(server.url) as connection:
        await connection.execute("SET statement_timeout = 0")
        while await connection.fetchval("SHOW synchronous_standby_names") != name:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


_WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


async def waiting(connection: asyncpg.Connection[asyncpg.Record], count: int = 1) -> list[int]:
    """The processes that wait for the standby, once there are so many."""
    async with asyncio.timeout(60):
        while len(pids := [row["pid"] for row in await connection.fetch(_WAITING)]) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return pids


async def test_a_cancelled_wait_for_the_standby_is_no_success(server: OwnPostgres) -> None:
    async with asyncio.timeout(120), opened(server.url) as log, connected(server.url) as other:
        await log.create("s")
        await standby(server, "nobody")
        ways = [
            asyncio.create_task(log.append("s", b"1")),
            asyncio.create_task(log.create("new")),
        ]
        cancelled: set[int] = set()
        while not all(way.done() for way in ways):  # an append's second transaction waits as well
            for pid in await other.fetch(_WAITING):
                cancelled.add(pid["pid"])
                await other.execute("SELECT pg_cancel_backend($1)", pid["pid"])
            await asyncio.sleep(0.01)
        outcomes = await asyncio.gather(*ways, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
        for outcome in outcomes:
            assert isinstance(outcome, Unavailable) and isinstance(outcome.__cause__, Unconfirmed)
        assert (log.news, log.doubts) == ([], []), "nobody is told"
        await standby(server, "")
        assert (await log.append("s", b"2")).tail == 2


async def test_a_roles_statement_timeout_cuts_no_wait_short(server: OwnPostgres) -> None:
    async with connected(server.url) as other:
        await other.execute(f"ALTER ROLE {urlsplit(server.url).username} SET statement_timeout = '100ms'")
    async with asyncio.timeout(120), opened(server.url, timeout=1) as log, connected(server.url) as look:
        await look.execute("SET statement_timeout = 0")
        await log.create("s")
        await standby(server, "nobody")
        with pytest.raises(Unavailable) as refused:
            await log.append("s", b"1")
        assert not isinstance(refused.value, NotSent)
        await waiting(look)
        assert await log.content("s") == b"", "no reader is shown what is not confirmed"
        for number in range(6):  # more than there are lanes
            with pytest.raises(Unavailable):
                await log.append(f"other-{number}", b"1")
        with pytest.raises(NotSent):
            await log.append("other", b"1")
        assert len(await waiting(look)) <= 2, "each lane leaves one process waiting, and no more"
        await standby(server, "")
        assert (await log.append("s", b"2")).tail == 2
        assert await log.content("s") == b"1,2"
