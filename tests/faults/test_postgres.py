"""What Postgres does to its clients: sessions ended, no room for new ones, no writes, no patience, a full queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from gateway.log.migrations import migrate
from tests.databases import OwnPostgres, Postgres
from tests.faults.scene import PATH, gateway, traffic
from tests.log.rig import connected

PATIENCE = 240
JSON = {"content-type": "application/json"}


def name_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


async def end_sessions(postgres: Postgres, url: str, which: str = "true") -> None:
    await postgres.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name_of(url)}' AND {which}"
    )


@pytest.mark.parametrize("which", ["query LIKE 'LISTEN%'", "true"])
async def test_sessions_that_are_ended_are_opened_again(postgres: Postgres, database_url: str, which: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        gateway(database_url) as a,
        gateway(database_url) as b,
        traffic([a.url], [b.url]) as scene,
    ):
        for _ in range(3):
            await end_sessions(postgres, database_url, which)
            await scene.goes_on()


async def test_connections_are_replaced_before_anybody_cuts_them(database_url: str) -> None:
    """Fly's proxy cuts those that are older than ten minutes."""
    backends = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%run_gateway.append%'"
    )
    async with (
        asyncio.timeout(PATIENCE),
        connected(database_url) as look,
        gateway(database_url, connection_max_age=1) as running,
        traffic([running.url]) as scene,
    ):
        old = {row["pid"] for row in await look.fetch(backends + " AND pid <> pg_backend_pid()")}
        assert old, "a lane keeps its connection"
        while old & {row["pid"] for row in await look.fetch(backends)}:
            await scene.goes_on(1)
        assert running.app._log.writer.outcomes.keys() == {"appended"}, "and nobody noticed"


@asynccontextmanager
async def database_with(postgres: Postgres, url: str, setting: str) -> AsyncIterator[None]:
    """The database with another default for its sessions, which are all new when the block begins and when it ends."""
    await postgres.execute(f"ALTER DATABASE {name_of(url)} SET {setting}")
    await end_sessions(postgres, url)
    try:
        yield
    finally:
        await postgres.execute(f"ALTER DATABASE {name_of(url)} RESET ALL")


async def test_a_database_that_takes_no_writes_is_read_and_followed(
    postgres: Postgres, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        gateway(database_url, sweep_interval=0.2) as running,
        traffic([running.url]) as scene,
        httpx.AsyncClient(base_url=running.url) as http,
    ):
        created = await http.put("/runs/brief", headers=JSON | {"stream-ttl": "60"}, content=b"[1]")
        assert created.status_code == 201
        async with database_with(postgres, database_url, "default_transaction_read_only = on"):
            acknowledged = scene.writer.acknowledged
            told = None
            while told is None or told.json()["error"]["type"] != "not_writable":  # until the old sessions have gone
                told = await http.post("/runs/brief", headers=JSON, content=b"2")
                assert told.status_code == 503, told.text
            assert "retry-after" in told.headers
            for method in ("PUT", "DELETE"):
                refused = await http.request(method, "/runs/other" if method == "PUT" else "/runs/brief", headers=JSON)
                assert (refused.status_code, refused.json()["error"]["type"]) == (503, "not_writable")
            assert (await http.get("/runs/brief")).json() == [1], "its TTL cannot slide, but it can be read"
            assert (await http.get(PATH, params={"offset": "-1"})).status_code == 200
            assert (await http.get("/ready")).json()["database"]
            assert scene.writer.acknowledged <= acknowledged + 1
        await scene.goes_on()  # nothing ends the sessions: connections that may not write are given up by themselves
    assert [record for record in caplog.records if record.exc_info] == []
    assert sum("takes no writes" in record.message for record in caplog.records) == 1


async def test_statements_that_are_cut_short_are_told_and_done_again(postgres: Postgres, database_url: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        gateway(database_url) as running,
        traffic([running.url]) as scene,
    ):
        async with database_with(postgres, database_url, "statement_timeout = '1ms'"):
            await asyncio.sleep(1.5)
        await end_sessions(postgres, database_url)
        await scene.goes_on()


async def test_a_database_without_free_connections_is_waited_for(postgres: Postgres, database_url: str) -> None:
    role = f"app_{name_of(database_url)}"
    await postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' IN ROLE pg_read_all_data, pg_write_all_data")
    async with connected(database_url) as owner:
        await owner.execute(f"GRANT USAGE ON SCHEMA run_gateway TO {role}")
    url = database_url.replace(f"{urlsplit(database_url).netloc}/", f"{role}:x@/", 1)
    try:
        async with (
            asyncio.timeout(PATIENCE),
            gateway(url, append_timeout=1, statement_timeout=1) as running,
            traffic([running.url]) as scene,
            httpx.AsyncClient(timeout=20) as http,
        ):
            await postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT 3")
            await end_sessions(postgres, database_url, f"usename = '{role}'")
            await scene.goes_on()
            await postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
            await end_sessions(postgres, database_url, f"usename = '{role}'")
            assert (await http.post(running.url + PATH, headers=JSON, content=b'{"n":0}')).status_code == 503
            await postgres.execute(f"ALTER ROLE {role} CONNECTION LIMIT -1")
            await scene.goes_on()
    finally:
        await end_sessions(postgres, database_url, f"usename = '{role}'")
        async with connected(database_url) as owner:
            await owner.execute(f"DROP OWNED BY {role}")
        await postgres.execute(f"DROP ROLE {role}")


async def fill_queue(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    for number in range(200):
        await connection.execute("SELECT pg_notify('elsewhere', $1)", f"{number}" + "x" * 7_900)


async def test_a_deaf_listener_elsewhere_fails_no_append(
    own_postgres: Callable[[], Awaitable[OwnPostgres]],
) -> None:
    """It holds up the queue of notifications until that is full, and pg_notify fails for everybody."""
    server = await own_postgres()
    await server.execute("ALTER SYSTEM SET max_notify_queue_pages = 64")  # 512 kB, the least there is
    await server.restart()
    await migrate(server.url)
    async with (
        asyncio.timeout(PATIENCE),
        connected(server.url) as stalled,
        connected(server.url) as other,
        gateway(server.url, sweep_interval=0.3) as a,
        gateway(server.url, sweep_interval=0.3) as b,
        traffic([a.url], [b.url]) as scene,
    ):
        await stalled.execute("LISTEN elsewhere")
        await stalled.execute("BEGIN; SELECT 1")
        with pytest.raises(asyncpg.PostgresError, match="too many notifications in the NOTIFY queue"):
            await fill_queue(other)
        await scene.goes_on(20)
        await stalled.execute("COMMIT")
        await scene.goes_on()
