"""The pool: what a statement that is not answered costs, and which settings its sessions have."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.log.database import Database
from gateway.protocol.errors import Unavailable
from tests.log.rig import connected
from tests.tools.database import Database as Away
from tests.tools.proxy import Proxy


async def ask(database: Database, statement: str) -> object:
    async with database.acquire() as connection:
        return await connection.fetchval(statement)


async def pids(database: Database, count: int) -> set[int]:
    """The server's processes of so many connections of the pool."""
    async with AsyncExitStack() as held:
        connections = [await held.enter_async_context(database.acquire()) for _ in range(count)]
        return {connection.get_server_pid() for connection in connections}


async def probed(database: Database) -> None:
    async with asyncio.timeout(60):
        while database._probing is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_slow_statement_costs_its_own_connection_only(database_url: str) -> None:
    async with Database(database_url, pool_size=5, statement_timeout=1) as database:
        before = await pids(database, 5)
        with pytest.raises(Unavailable):
            await ask(database, "SELECT pg_sleep(60)")
        await probed(database)
        assert len(before & await pids(database, 5)) == 4


@pytest.mark.parametrize("how", ["it took too long", "whoever asked has gone"])
async def test_what_was_given_up_ends_in_the_server_too(database_url: str, how: str) -> None:
    slow = "SELECT pg_sleep(600)"
    count = f"SELECT count(*) FROM pg_stat_activity WHERE query = '{slow}' AND datname = current_database()"
    async with connected(database_url) as look, asyncio.timeout(60):
        async with Database(
            database_url, pool_size=1, statement_timeout=1 if how == "it took too long" else 60
        ) as database:
            asking = asyncio.create_task(ask(database, slow))
            while not await look.fetchval(count):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            if how == "whoever asked has gone":
                asking.cancel()
            with pytest.raises((Unavailable, asyncio.CancelledError)):
                await asking
        while await look.fetchval(count):  # noqa: ASYNC110  Postgres tells nobody
            await asyncio.sleep(0.05)


async def test_connections_that_do_not_answer_are_all_replaced(database_url: str) -> None:
    away = Away(database_url, None)
    async with AsyncExitStack() as open:
        proxy = await open.enter_async_context(Proxy(away.socket))
        url = away.through(proxy.port)
        database = await open.enter_async_context(Database(url, pool_size=3, statement_timeout=1))
        before = await pids(database, 3)
        with proxy.silence():
            with pytest.raises(Unavailable):
                await ask(database, "SELECT 1")
            await probed(database)
        assert not before & await pids(database, 3)


async def test_a_roles_limits_do_not_apply_to_the_gateways_sessions(database_url: str) -> None:
    async with connected(database_url) as other:
        name = await other.fetchval("SELECT current_database()")
        for limit in ("statement_timeout", "idle_session_timeout"):
            await other.execute(f"ALTER DATABASE {name} SET {limit} = '1s'")
    async with Database(database_url, pool_size=2, statement_timeout=30) as database:
        assert await ask(database, "SHOW statement_timeout") == "0"
        assert await ask(database, "SHOW idle_session_timeout") == "0"


@pytest.mark.parametrize("when", ["before its turn", "as its turn comes"])
@pytest.mark.parametrize("leaving", [(), (1,), (1, 3), (4,)], ids=str)
async def test_a_connection_goes_from_hand_to_hand_while_some_wait(
    database_url: str, monkeypatch: pytest.MonkeyPatch, leaving: tuple[int, ...], when: str
) -> None:
    """By the driver's pool it would lie idle for some turns of the loop each time. Whoever leaves holds up nobody."""
    async with Database(database_url, pool_size=1, statement_timeout=60) as database, asyncio.timeout(60):
        taken, take = 0, database.take

        async def counted() -> Any:
            nonlocal taken
            taken += 1
            return await take()

        monkeypatch.setattr(database, "take", lambda **_: counted())
        let = asyncio.Event()

        async def use(number: int) -> object:
            async with database.acquire(f"tenant{number}") as connection:
                await let.wait()
                found: object = await connection.fetchval("SELECT $1::int", number)
                if number + 1 in leaving and when == "before its turn":
                    tasks[number + 1].cancel()
            if number + 1 in leaving and when == "as its turn comes":
                tasks[number + 1].cancel()
            return found

        tasks = [asyncio.create_task(use(number)) for number in range(5)]
        while database._turns.waiting < 4:  # noqa: ASYNC110
            await asyncio.sleep(0)
        let.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each for each in found if isinstance(each, int)] == [n for n in range(5) if n not in leaving]
        assert taken == 1, "and then it was handed over"
        while database.connections != {"busy": 0, "idle": 1}:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert database._turns.free == 1 and not database._turns.awaited and not database._handed_over
