"""`run-gateway rotate-token-key` and `rotate-webhook-key`: a new key, beside the old ones, which stay valid."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from gateway.process.exit_codes import finish, settings
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.log.database import Database


@click.command("rotate-token-key", short_help="Sign runs' tokens with a new key.")
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
@click.option("--data-dir", metavar="FOLDER", help="Instead of GATEWAY_DATA_DIR.")
@click.option("--revoke", is_flag=True, help="Delete the older keys: all of their tokens are refused within a minute.")
@click.option("--yes", is_flag=True, help="Do not ask whether that is meant.")
def rotate_token_key(database_url: str | None, data_dir: str | None, revoke: bool, yes: bool) -> None:
    """Sign runs' tokens with a new key (in DATABASE_URL, or the embedded database). Machines use it within a minute.

    Tokens of older keys stay valid until they expire, unless they are revoked. Where GATEWAY_TOKEN_SECRETS is set,
    those sign instead.
    """
    finish(_rotate(settings(database_url=database_url, data_dir=data_dir), revoke, yes))


@click.command("rotate-webhook-key", short_help="Sign webhooks with a new key.")
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
@click.option("--data-dir", metavar="FOLDER", help="Instead of GATEWAY_DATA_DIR.")
def rotate_webhook_key(database_url: str | None, data_dir: str | None) -> None:
    """Sign webhooks with a new key (in DATABASE_URL, or the embedded database), which is published at once and used two
    minutes later.

    The two keys before it stay published, so that what they signed can still be verified. Older ones are deleted.
    """
    finish(_rotate_webhooks(settings(database_url=database_url, data_dir=data_dir)))


async def _rotate(settings: Settings, revoke: bool, yes: bool) -> None:
    from gateway.auth.token_counts import valid  # the driver is for those who need a database
    from gateway.auth.token_keys import rotate

    async with _opened(settings) as database:
        count = await valid(database) if revoke else 0
        if revoke and not yes:
            click.confirm(
                f"End {count:,} tokens of runs within a minute, and those that were made in the last one? Readers and"
                " agents need new ones",
                abort=True,
                err=True,
            )
        number = await rotate(database, revoke=revoke)
    older = f"; {count:,} tokens of older keys are refused" if revoke else ""
    click.echo(f"Within a minute, runs' tokens are signed with key {number}{older}")


async def _rotate_webhooks(settings: Settings) -> None:
    from gateway.subscriptions.keyring import rotate

    async with _opened(settings) as database:
        await rotate(database)
    click.echo("A new key is published, and signs webhooks in two minutes")


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Database]:
    from gateway.log.database import Database
    from gateway.process.database import database, update

    async with database(settings) as url:
        await update(url)
        async with Database(url, pool_size=1, statement_timeout=settings.statement_timeout) as opened:
            yield opened
