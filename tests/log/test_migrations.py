"""Migrations: each once, in order, however many start at the same time."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import asyncpg
import pytest

from gateway.log import migrations
from gateway.log.migrations import migrate, names
from tests.databases import Postgres
from tests.log.rig import connected, opened


@pytest.fixture
async def bare_url(database_url: str) -> str:
    """A database without the schema."""
    async with connected(database_url) as connection:
        await connection.execute("DROP SCHEMA run_gateway CASCADE")
    return database_url


async def test_they_are_applied_once_and_in_order(bare_url: str) -> None:
    assert await migrate(bare_url) == names() == sorted(names())
    assert await migrate(bare_url) == []
    async with connected(bare_url) as look:
        rows = await look.fetch("SELECT name FROM run_gateway.migrations ORDER BY name")
        assert [row["name"] for row in rows] == names()


async def test_several_that_start_at_once_wait_for_each_other(bare_url: str) -> None:
    applied = await asyncio.gather(*(migrate(bare_url) for _ in range(5)))
    assert sorted(applied) == [[], [], [], [], names()]
    async with opened(bare_url) as log:
        await log.create("s", body=b"[1]")
        assert await log.content("s") == b"1"


async def test_applying_them_again_keeps_what_is_there(database_url: str) -> None:
    async with opened(database_url) as log:
        await log.create("s", body=b"[1]")
        assert await migrate(database_url) == []
        assert await log.content("s") == b"1"


async def test_where_nothing_is_missing_nothing_is_written(postgres: Postgres, database_url: str) -> None:
    database = database_url.split("?")[0].rpartition("/")[2]
    await postgres.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    assert await migrate(database_url) == []


async def test_one_that_fails_leaves_nothing_behind(bare_url: str) -> None:
    async with connected(bare_url) as connection:
        # Something is in the way of the first one, after it has made some of its tables.
        await connection.execute("CREATE SCHEMA run_gateway; CREATE TABLE run_gateway.producers ()")
        with pytest.raises(asyncpg.DuplicateTableError):
            await migrate(bare_url)
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'run_gateway'")
        assert [row["tablename"] for row in rows] == ["producers"]
        await connection.execute("DROP TABLE run_gateway.producers")
    assert await migrate(bare_url) == names()


async def test_a_function_that_disables_plans_is_not_jit_compiled(database_url: str) -> None:
    # Before Postgres 18 a plan that is off and used all the same costs 1e10, and whatever costs much is given to JIT: a
    # second for each call. The server of the tests has no JIT, so the settings are what can be looked at.
    async with connected(database_url) as look:
        compiled = await look.fetch(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'run_gateway'::regnamespace"
            " AND proconfig && '{enable_nestloop=off,enable_bitmapscan=off}' AND NOT proconfig && '{jit=off}'"
        )
    assert compiled == []


async def test_one_that_has_to_wait_for_a_table_lets_others_use_it(
    bare_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await migrate(bare_url)
    async with connected(bare_url) as backup, connected(bare_url) as machine:
        await machine.execute("ALTER TABLE run_gateway.lease_looks DROP COLUMN since")
        await machine.execute("DELETE FROM run_gateway.migrations WHERE name = '0007_lease_looks.sql'")
        async with asyncio.timeout(30):
            async with backup.transaction():
                await backup.execute("SELECT FROM run_gateway.lease_looks")
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await migrate(bare_url, patience=0)
                waiting = asyncio.create_task(migrate(bare_url))
                while "Another transaction holds a table" not in caplog.text:
                    await machine.execute("SELECT FROM run_gateway.lease_looks")
                assert not waiting.done()
            assert await waiting == ["0007_lease_looks.sql"]


async def test_everything_is_in_a_schema_of_its_own(database_url: str) -> None:
    async with connected(database_url) as look:
        outside = await look.fetch(
            "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE nspname NOT IN ('run_gateway', 'pg_catalog', 'information_schema', 'pg_toast')"
        )
        assert outside == []


async def test_what_a_session_looks_in_first_plays_no_part(postgres: Postgres, database_url: str) -> None:
    async with connected(database_url) as connection:
        database = database_url.split("?")[0].rpartition("/")[2]
        for statement in ("SCHEMA elsewhere", "TABLE elsewhere.streams ()", "TABLE elsewhere.events ()"):
            await connection.execute(f"CREATE {statement}")
    await postgres.execute(f"ALTER DATABASE {database} SET search_path = elsewhere")
    async with opened(database_url) as log:
        await log.create("s", body=b"[1]")
        await log.append("s", b"2")
        assert await log.content("s") == b"1,2"
        await log.lifecycle.delete("s")
        assert await log.housekeeping.purge()


async def test_an_older_version_leaves_newer_functions_alone(database_url: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute("INSERT INTO run_gateway.migrations (name) VALUES ('functions-9999')")
    assert await migrate(database_url) == []


async def test_functions_of_an_older_version_are_replaced(database_url: str) -> None:
    async with connected(database_url) as connection:
        await connection.execute("DELETE FROM run_gateway.migrations WHERE name = $1", migrations.functions())
        await connection.execute(
            "CREATE OR REPLACE FUNCTION run_gateway.live(s run_gateway.streams) RETURNS boolean"
            " LANGUAGE sql STABLE RETURN false"
        )
    assert await migrate(database_url) == [migrations.functions()]
    async with opened(database_url) as log:
        await log.create("s", body=b"[1]")
        assert await log.content("s") == b"1"


def test_their_names_are_numbered_without_a_gap() -> None:
    assert [int(name[:4]) for name in migrations.tables()] == list(range(1, len(migrations.tables()) + 1))
    assert all(name[4] == "_" and name.endswith(".sql") for name in migrations.tables())


def test_functions_mean_the_same_by_old_rules_for_strings() -> None:
    """With standard_conforming_strings off, a backslash in a plain literal is an escape when the function runs."""
    for script in (Path(migrations.__file__).parent / "sql" / "functions").glob("*.sql"):
        text = re.sub(r"--.*", "", script.read_text())
        assert not re.findall(r"(?<![E\w'])'[^'\n]*\\[^'\n]*'", text), script.name


def test_a_change_of_the_functions_is_a_new_revision() -> None:
    folder = Path(migrations.__file__).parent / "sql" / "functions"
    scripts = sorted(folder.glob("*.sql"))
    assert {script.stem for script in scripts} == set(migrations.FUNCTIONS)
    name, digest = (folder / "REVISION").read_text().split()
    text = b"".join(script.read_bytes() for script in scripts)
    assert digest == sha256(text).hexdigest(), f"another text than {name}'s: count it up, and write the new digest"


MADE = re.compile(r"((?:^--.*\n)*)^CREATE OR REPLACE (?:FUNCTION|PROCEDURE) run_gateway\.(\w+)", re.MULTILINE)
# A batch's, a lone request's and SQL's own; any recording's, and that of one who has not been taken over from.
SEVERAL = {"append": 3, "lose_recording": 2}


def test_what_another_version_calls_says_until_when() -> None:
    """The rule of gateway/log/README.md: a function of an older version has a name of its own and an end."""
    scripts = (Path(migrations.__file__).parent / "sql" / "functions").glob("*.sql")
    made = [found for script in scripts for found in MADE.findall(script.read_text())]
    ours = Counter(name for comment, name in made if not comment.startswith("-- Until "))
    assert {name: count for name, count in ours.items() if count > 1} == SEVERAL
    version = tuple(map(int, metadata.version("run-gateway").split(".")[:2]))
    for comment, name in made:
        for until in re.findall(r"^-- Until (.*?):", comment):
            assert version < tuple(map(int, until.split("."))), f"{name} is to be dropped by a migration"
