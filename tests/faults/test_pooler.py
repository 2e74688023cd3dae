"""PgBouncer in front of everything: LISTEN is swallowed there, and prepared statements go astray."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from gateway.feed import Feed
from gateway.log import connect as module
from gateway.log.database import Database
from gateway.log.listen_address import direct_address, listening_addresses
from gateway.log.listener import Listener
from gateway.log.migrations import migrate
from gateway.process.machine import MachineFailed
from tests.databases import Postgres
from tests.faults.pooler import pgbouncer
from tests.log.rig import connected
from tests.machines import Machine, free_port
from tests.traffic import MODES, Reader, Writer

PATH = "/runs/run-1"
PATIENCE = 240


@asynccontextmanager
async def machines(url: str, env: dict[str, str], count: int = 2) -> AsyncIterator[list[Machine]]:
    """Several at once: each takes a while to be sure that LISTEN does not work."""
    async with AsyncExitStack() as stack:
        starting = (stack.enter_async_context(Machine.start(url, env=env)) for _ in range(count))
        yield await asyncio.gather(*starting)


async def news(machine: Machine) -> str:
    """How news arrives, as /ready and the metric both say."""
    async with httpx.AsyncClient(base_url=machine.url) as http:
        told: str = (await http.get("/ready")).json()["news"]
        (value,) = re.findall(r"^run_gateway_listening(?:{.*})? (.*)$", (await http.get("/metrics")).text, re.MULTILINE)
        assert float(value) == (told == "listen")
        return told


async def traffic(a: Machine, b: Machine, count: int) -> None:
    """A writer of one and readers of both Machines, many streams at once so that backends change hands."""
    paths = [f"{PATH}-{number}" for number in range(4)]
    writers = [Writer(path, [a.url]) for path in paths]
    readers = [Reader(mode, path, [machine.url]) for path in paths for mode in MODES for machine in (a, b)]
    for writer in writers:
        await writer.create()
    async with asyncio.TaskGroup() as tasks:
        for reader in readers:
            tasks.create_task(reader.run())
        for writer in writers:
            tasks.create_task(writer.write(count))
    for reader in readers:
        assert reader.given == list(range(1, count + 1)), reader.mode


async def test_everything_works_behind_a_pooler_in_transaction_mode(postgres: Postgres) -> None:
    name = "behind_a_pooler"
    await postgres.execute(f"CREATE DATABASE {name}")
    try:
        async with asyncio.timeout(PATIENCE), pgbouncer(postgres.dsn(name), size=3) as pooler:
            assert await migrate(pooler.url) != []
            assert await migrate(pooler.url) == []
            env = {"GATEWAY_MIGRATE": "false"}
            async with machines(pooler.url, env) as (a, b):
                for machine in (a, b):
                    assert await news(machine) == "polling"
                    assert "loses prepared statements" in machine.log
                    assert "does not arrive on LISTEN" in machine.log
                await traffic(a, b, 25)
                assert "ERROR" not in a.log + b.log
    finally:
        await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_direct_address_behind_a_pooler_brings_listen(database_url: str) -> None:
    async with asyncio.timeout(PATIENCE), pgbouncer(database_url) as pooler:
        env = {"LISTEN_DATABASE_URL": database_url}
        async with machines(pooler.url, env) as (a, b):
            assert [await news(machine) for machine in (a, b)] == ["listen", "listen"]
            await traffic(a, b, 10)


@pytest.mark.parametrize(("mode", "keeps"), [("session", True), ("transaction", False)])
async def test_prepared_statements_are_kept_where_a_session_is_one(database_url: str, mode: str, keeps: bool) -> None:
    async with (
        pgbouncer(database_url, mode=mode) as pooler,
        Database(pooler.url, pool_size=2, statement_timeout=5) as database,
        database.acquire() as connection,
    ):
        await connection.fetchval("SELECT 40 + $1::integer", 2)
        names = await connection.fetchval("SELECT count(*) FROM pg_prepared_statements")
        assert (names > 0) is keeps


async def test_who_requires_listen_does_not_start_to_poll(database_url: str) -> None:
    async with pgbouncer(database_url) as pooler:
        env = {"GATEWAY_REQUIRE_LISTEN": "true", "GATEWAY_MIGRATE": "false"}
        with pytest.raises(MachineFailed, match=r"(?s)exit code 1:\n.*set LISTEN_DATABASE_URL to its direct address"):
            async with Machine.start(pooler.url, env=env):
                pass
        async with Machine.start(pooler.url, env=env | {"LISTEN_DATABASE_URL": database_url}) as machine:
            assert await news(machine) == "listen"


@pytest.mark.parametrize(
    ("pooled", "direct"),
    [
        ("postgresql://u:p%40w@pgbouncer.a12.flympg.net/fly-db", "postgresql://u:p%40w@direct.a12.flympg.net/fly-db"),
        ("postgres://u:p@pgbouncer.abc.flympg.net:5432/d?x=1", "postgres://u:p@direct.abc.flympg.net:5432/d?x=1"),
        ("postgresql://u:p@pgbouncer.abc.flympg.net:6432/d", None),  # another port: who knows what listens there
        ("postgresql://u:p@pgbouncer.abc.flympg.net.evil.example/d", None),
        ("postgresql://u:p@pgbouncer.example.com/d", None),
        ("postgresql://u:p@direct.abc.flympg.net/d", None),
    ],
)
def test_the_direct_address_of_flys_postgres_is_derived(pooled: str, direct: str | None) -> None:
    assert direct_address(pooled) == direct
    assert listening_addresses(pooled, None) == [address for address in (direct, pooled) if address]
    assert listening_addresses(pooled, "postgresql://given/d") == ["postgresql://given/d"]


async def test_a_derived_address_that_fails_yields_to_the_pooled_one(database_url: str) -> None:
    database = Database(database_url, pool_size=2, statement_timeout=5)
    await database.open()
    listener = Listener(
        [f"postgresql://nobody@127.0.0.1:{free_port()}/x", database_url],
        database,
        machine="m",
        heartbeat=15,
        feed=Feed(),
    )
    try:
        await listener.start()
        assert listener.news == "listen"
    finally:
        await listener.stop()
        await database.close()


async def test_whenever_the_way_of_news_changes_all_look_at_the_log(database_url: str) -> None:
    """What was notified while nobody listened was not heard."""
    database = Database(database_url, pool_size=2, statement_timeout=5)
    await database.open()
    looks: list[str] = []
    looked = asyncio.Event()

    def look() -> None:
        looks.append(listener.news)
        looked.set()

    feed = Feed()
    feed.missed.subscribe(look)
    listener = Listener([database_url], database, machine="m", heartbeat=15, feed=feed)
    try:
        await listener.start()
        assert looks == ["listen"]
        async with connected(database_url) as killer, asyncio.timeout(60):
            await killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
            while len(looks) < 3:
                looked.clear()
                await looked.wait()
        assert looks == ["listen", "polling", "listen"]
    finally:
        await listener.stop()
        await database.close()


async def test_an_unexpected_error_stops_neither_start_nor_listening(
    database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url, pool_size=2, statement_timeout=5)
    await database.open()
    defects = [RuntimeError("a defect")]
    listening = asyncio.Event()

    async def connect(address: str, **named: Any) -> Any:
        if defects and address == database_url:
            raise defects.pop()
        return await module.connect(address, **named)

    def look() -> None:
        listening.set()
        raise RuntimeError("a subscriber's fault")

    monkeypatch.setattr("gateway.log.listener.connect", connect)
    feed = Feed()
    feed.missed.subscribe(look)

    no_name = f"postgresql://nobody@{'a' * 64}.example/x"  # too long for one: the driver raises UnicodeError
    listener = Listener([no_name, database_url], database, machine="m", heartbeat=15, feed=feed)
    try:
        async with asyncio.timeout(60):
            await listener.start()
            await listening.wait()
        assert listener.news == "listen"
        failures = [record.exc_info[0] for record in caplog.records if record.exc_info]
        assert failures == [UnicodeError, RuntimeError, UnicodeError, RuntimeError]
    finally:
        await listener.stop()
        await database.close()


async def test_connections_of_a_small_pooler_are_lent_in_turn(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def at_once(database: Database) -> None:
        async def ask() -> None:
            async with database.acquire() as connection:
                await connection.fetchval("SELECT pg_sleep(0.1)")

        await asyncio.gather(*(ask() for _ in range(4)))

    async with (
        asyncio.timeout(PATIENCE),
        pgbouncer(database_url, mode="session", size=4) as pooler,
        Database(pooler.url, pool_size=4, statement_timeout=20) as one,
        Database(pooler.url, pool_size=4, statement_timeout=20) as other,
    ):
        for _ in range(2):
            await at_once(one)
            await at_once(other)
    assert "give it 5 a worker" in caplog.text
