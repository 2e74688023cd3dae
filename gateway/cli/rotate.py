"""`run-gateway rotate-token-key` and `rotate-webhook-key`: a new key signs from now on; what is out stays valid."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from gateway.cli.endings import settings
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.log.database import Database


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


@click.command("rotate-webhook-key")
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
@click.option("--data-dir", metavar="FOLDER", help="Instead of GATEWAY_DATA_DIR.")
def rotate_webhook_key(database_url: str | None, data_dir: str | None) -> None:
    """Sign webhooks with a new key (in DATABASE_URL, or the embedded database), which is published two minutes before.

    The two keys before it stay published: what they signed can still be verified. Older ones are deleted.
    """
    try:
        asyncio.run(_rotate_webhooks(settings(database_url=database_url, data_dir=data_dir)))
    except KeyboardInterrupt:
        sys.exit(130)


async def _rotate(settings: Settings) -> None:
    from gateway.auth.token_keys import rotate  # the driver is for those who need a database

    async with _opened(settings) as database:
        number = await rotate(database)
    click.echo(f"Tokens are signed with key {number} from now on")


async def _rotate_webhooks(settings: Settings) -> None:
    from gateway.subscriptions.keyring import rotate

    async with _opened(settings) as database:
        await rotate(database)
    click.echo("A new key is published, and signs webhooks in two minutes")


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Database]:
    from gateway.cli.database import database, update
    from gateway.log.database import Database

    async with database(settings) as url:
        await update(url)
        opened = Database(url, pool_size=1, statement_timeout=settings.statement_timeout)
        await opened.open()
        try:
            yield opened
        finally:
            await opened.close()
