"""`python -m loadtests.probes.lists`: what lists that live cost while nobody looks at one, in bytes of WAL for a run.

Runs are made, ended and removed over a Postgres of its own, once as the log is, and once without what is for lists.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

import asyncpg
import click

from gateway.embedded import EmbeddedPostgres
from gateway.log.migrations import migrate

# What is for lists alone: the number of the transaction that made a run, its index, and a row of each removed one.
WITHOUT: Final = """
    ALTER TABLE run_gateway.runs ALTER COLUMN created_by DROP DEFAULT;
    DROP INDEX run_gateway.runs_changed;
    CREATE FUNCTION run_gateway.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER nothing BEFORE INSERT ON run_gateway.removed_runs
        FOR EACH ROW EXECUTE FUNCTION run_gateway.nothing();
"""
STEPS: Final = {
    "made": "SELECT run_gateway.create('runs/' || $1, workflow_name => 'chat', metadata => '{\"u\":\"1\"}')",
    "ended": 'SELECT run_gateway.close(\'runs/\' || $1, \'{"type":"run_end","isError":false}\')',
    "removed": "SELECT run_gateway.delete_stream('probe', 'runs/' || $1)",
}


async def written(connection: asyncpg.Connection[asyncpg.Record], statement: str, runs: range) -> float:
    """Bytes of WAL for each run, without the images of pages that each checkpoint brings."""
    before = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
    for run in runs:
        await connection.fetch(statement, f"run-{run:06}")
    size = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before)
    return float(size) / len(runs)


async def measure(url: str, runs: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("ALTER SYSTEM SET full_page_writes = off")
        await connection.execute("SELECT pg_reload_conf()")
        found = []
        for number, statement in enumerate(("", WITHOUT)):
            await connection.execute(statement or "SELECT")
            some = range(number * 10**5, number * 10**5 + runs)
            found.append([await written(connection, step, some) for step in STEPS.values()])
    finally:
        await connection.close()
    click.echo("bytes of WAL   as it is   without lists")
    for name, there, without in zip(STEPS, *found, strict=True):
        click.echo(f"{name:<12}{there:11,.0f}{without:16,.0f}")


async def _main(runs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="lists-") as folder:
        async with EmbeddedPostgres(Path(folder)) as postgres:
            await migrate(postgres.dsn)
            await measure(postgres.dsn, runs)


@click.command()
@click.option("--runs", default=500, show_default=True)
def main(runs: int) -> None:
    """Bytes of WAL for each run that is made, ended and removed."""
    asyncio.run(_main(runs))


if __name__ == "__main__":
    main()
