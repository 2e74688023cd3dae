"""`run-gateway migrate`: the schema, and nothing else."""

from __future__ import annotations

import click

from gateway.cli.progress import progress
from gateway.process.exit_codes import finish, settings
from gateway.settings import Settings


@click.command(short_help="Create or update the database schema.")
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
@click.option("--data-dir", metavar="FOLDER", help="Instead of GATEWAY_DATA_DIR.")
def migrate(database_url: str | None, data_dir: str | None) -> None:
    """Bring the schema up to date (of DATABASE_URL, or of the embedded database) and print what was applied.

    It may be repeated, and several may run at once.
    """
    finish(_migrate(settings(database_url=database_url, data_dir=data_dir)))


async def _migrate(settings: Settings) -> None:
    from gateway.process.database import database, update  # the driver is for those who need a database

    async with database(settings) as url:
        with progress("migrations") as told:
            async with told.ticking():
                applied = await update(url, lambda _: told.add(1), lambda lacking: setattr(told, "whole", lacking))
    for name in applied:
        click.echo(f"Applied {name}")
    if not applied:
        click.echo("Nothing to apply: the schema is up to date")
