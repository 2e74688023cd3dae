"""`run-gateway migrate` as a process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from gateway.log.embedded import EmbeddedPostgres
from gateway.log.migrations import functions, migrate, names
from tests.cli.commands import command, running


async def test_migrate_prints_what_it_applied_and_then_that_there_is_nothing_to_do(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        first = await command("migrate", DATABASE_URL=postgres.dsn)
        again = await command("migrate", "--database-url", postgres.dsn)
    assert first == (0, "".join(f"Applied {name}\n" for name in names()), "")
    assert again == (0, "Nothing to apply: the schema is up to date\n", "")


async def test_of_several_that_start_at_once_one_applies(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        ended = await asyncio.gather(*(command("migrate", DATABASE_URL=postgres.dsn) for _ in range(4)))
    assert [one.code for one in ended] == [0] * 4
    assert sum("Applied" in one.out for one in ended) == 1


async def test_without_a_database_url_it_is_the_embedded_one_that_is_migrated(tmp_path: Path) -> None:
    ended = await command("migrate", "--data-dir", str(tmp_path))
    assert (ended.code, ended.out.splitlines()[1:]) == (0, [f"Applied {name}" for name in names()])


async def test_serve_that_may_not_migrate_refuses_a_database_without_the_schema_or_with_an_older_one(
    tmp_path: Path,
) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        bare = await command("serve", "--no-migrate", "--port", "0", DATABASE_URL=postgres.dsn)
        await migrate(postgres.dsn)
        connection = await asyncpg.connect(postgres.dsn)
        await connection.execute("DELETE FROM run_gateway.migrations WHERE name LIKE 'functions%'")
        old = await command("serve", "--no-migrate", "--port", "0", DATABASE_URL=postgres.dsn)
        await connection.execute(
            "INSERT INTO run_gateway.migrations (name) VALUES ('functions-9999'), ('9999_new.sql')"
        )
        await connection.close()
        async with running("serve", "--no-migrate", "--port", "0", DATABASE_URL=postgres.dsn) as newer:
            assert newer.stdout is not None
            assert (await newer.stdout.readline()).startswith(b"Listening on ")
    assert (bare.code, old.code) == (1, 1)
    assert bare.err.endswith(" has no schema run_gateway: `run-gateway migrate` makes it\n")
    assert old.err.endswith(f" is older than this program: `run-gateway migrate` applies {functions()}\n")
