"""`run-gateway rotate-token-key`: runs' tokens are signed with a new key from now on; those that are out stay valid."""

from __future__ import annotations

import asyncio
import sys

import click

from gateway.cli.endings import settings
from gateway.settings import Settings


@click.command("rotate-token-key")
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
@click.option("--data-dir", metavar="FOLDER", help="Instead of GATEWAY_DATA_DIR.")
def rotate_token_key(database_url: str | None, data_dir: str | None) -> None:
    """Sign runs' tokens with a new key (in DATABASE_URL, or the embedded database). Machines take it up in a minute.

    Tokens of the keys before stay valid until they expire. Where GATEWAY_TOKEN_SECRETS is set, that goes before.
    """
    try:
        asyncio.run(_rotate(settings(database_url=database_url, data_dir=data_dir)))
    except KeyboardInterrupt:
        sys.exit(130)


async def _rotate(settings: Settings) -> None:
    from gateway.auth.token_keys import rotate  # the driver is for those who need a database
    from gateway.cli.database import database, update
    from gateway.log.database import Database

    async with database(settings) as url:
        await update(url)
        opened = Database(url, pool_size=1, statement_timeout=settings.statement_timeout)
        await opened.open()
        try:
            number = await rotate(opened)
        finally:
            await opened.close()
    click.echo(f"Tokens are signed with key {number} from now on")
