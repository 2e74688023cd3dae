"""`run-gateway migrate` as a process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.log.embedded import EmbeddedPostgres
from gateway.log.migrations import names
from tests.cli.commands import command


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


async def test_serve_that_may_not_migrate_refuses_a_database_without_the_schema(tmp_path: Path) -> None:
    async with EmbeddedPostgres(tmp_path) as postgres:
        ended = await command("serve", "--no-migrate", "--port", "0", DATABASE_URL=postgres.dsn)
    assert ended.code == 1
    assert ended.err.endswith(" has no schema run_gateway: `run-gateway migrate` makes it\n")
