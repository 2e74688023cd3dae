"""How many runs a tenant has, counted in pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import asyncpg
import pytest

from gateway.log.database import Database
from gateway.protocol.errors import Unavailable
from gateway.runs import quota
from gateway.runs.quota import RunQuota
from tests.log.rig import connected, opened

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

MAKE = """
    INSERT INTO run_gateway.streams (path, content_type, media_type)
    SELECT $1 || 'runs/' || i, 'text/plain', 'text/plain' FROM generate_series($2::integer, $3) i
"""
REMOVE = "DELETE FROM run_gateway.runs WHERE tenant = $1 AND id::integer BETWEEN $2 AND $3"
T = "t\x1f"


class Watched:
    """A database that tells how many statements it was asked; `fault` is raised instead of an answer."""

    def __init__(self, database: Database) -> None:
        self.asked = 0
        self.fault: Exception | None = None
        self._database = database

    @asynccontextmanager
    async def acquire(self, tenant: str) -> AsyncIterator[Any]:
        self.asked += 1
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        async with self._database.acquire(tenant) as connection:
            yield connection

    def since(self) -> int:
        asked, self.asked = self.asked, 0
        return asked


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@asynccontextmanager
async def counting(
    url: str, monkeypatch: pytest.MonkeyPatch, limit: int
) -> AsyncIterator[tuple[RunQuota, Watched, Connection, Clock]]:
    """A quota whose pieces are of three runs, and a tenant `t` among others."""
    clock = Clock()
    monkeypatch.setattr(quota, "PIECE", 3)
    monkeypatch.setattr(quota, "time", clock)
    async with opened(url) as log, connected(url) as connection:
        for tenant in ("", "s\x1f", T, "u\x1f"):
            await connection.execute(MAKE, tenant, 1, 2)
        database = Watched(log.database)
        yield RunQuota(cast("Database", database), limit), database, connection, clock


async def test_runs_of_one_tenant_are_counted_in_pieces(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with counting(database_url, monkeypatch, 10) as (quota, database, connection, _):
        await connection.execute(MAKE, T, 3, 8)
        assert [await quota.full("t", None) for _ in range(4)] == [False, False, True, True], "it has eight"
        assert database.since() == 3, "pieces of three, three and two"
        assert [await quota.full(tenant, None) for tenant in ("", "s", "u")] == [False] * 3


async def test_only_the_newest_are_counted_again(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with counting(database_url, monkeypatch, 100) as (quota, database, connection, clock):
        await connection.execute(MAKE, T, 3, 10)
        assert not await quota.full("t", None)
        assert database.since() == 4
        clock.now += 6
        assert not await quota.full("t", None)
        assert database.since() == 1
        await connection.execute(MAKE, T, 11, 13)
        clock.now += 6
        assert not await quota.full("t", None)
        assert database.since() == 2, "one piece is whole by now"
        assert quota._known["t"].runs == 13 + 1, "the one that may be made as well"


async def test_who_has_too_many_is_counted_anew(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before a count is old, nor more often than is cheap."""
    async with counting(database_url, monkeypatch, 10) as (quota, database, connection, clock):
        await connection.execute(MAKE, T, 3, 10)
        assert await quota.full("t", None)
        await connection.execute(REMOVE, "t", 1, 2)
        assert await quota.full("t", None), "its count is fresh"
        clock.now += 6
        assert [await quota.full("t", None) for _ in range(3)] == [False, False, True]
        quota._known["t"].again = clock.now + 60
        database.since()
        clock.now += 6
        await connection.execute(MAKE, T, 11, 12)
        await connection.execute(REMOVE, "t", 3, 4)
        assert await quota.full("t", None)
        assert database.since() == 2, "the newest only"
        clock.now += 60
        assert [await quota.full("t", None) for _ in range(3)] == [False, False, True]


async def test_a_count_goes_no_further_than_the_limit(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with counting(database_url, monkeypatch, 4) as (quota, database, connection, _):
        await connection.execute(MAKE, T, 3, 90)
        assert await quota.full("t", None)
        assert database.since() == 2


async def test_a_run_that_is_there_may_be_asked_for(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with counting(database_url, monkeypatch, 2) as (quota, _, _, _):
        assert not await quota.full("t", f"{T}runs/1")
        assert await quota.full("t", f"{T}runs/3")


async def test_one_count_is_made_for_all_who_ask(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with counting(database_url, monkeypatch, 10) as (quota, database, _, clock):
        asked = await asyncio.gather(*(quota.full("t", None) for _ in range(20)))
        assert sorted(asked) == [False] * 8 + [True] * 12
        assert database.since() == 1
        clock.now += 6
        database.fault = Unavailable()
        refused = await asyncio.gather(*(quota.full("t", None) for _ in range(20)), return_exceptions=True)
        assert {type(each) for each in refused} == {Unavailable}
        assert database.since() == 1
        database.fault = None
        assert not await quota.full("t", None)
