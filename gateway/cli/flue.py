"""`run-gateway flue`: the triggers on the tables of a Flue app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from gateway.process.exit_codes import Misuse, finish, settings
from gateway.process.flue_app import with_app

if TYPE_CHECKING:
    from gateway.flue.schema import Connection


@click.group(short_help="Put triggers on a Flue app's tables, or remove them.")
def flue() -> None:
    """The triggers on the tables of a Flue app, in DATABASE_URL."""


@flue.command()
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
def attach(database_url: str | None) -> None:
    """Put triggers on Flue's tables, so that every Machine hears of each event at once. It may be repeated."""
    from gateway.flue import schema

    _finish(database_url, schema.attach)
    click.echo("Attached: Flue's tables tell the gateways of what is new")


@flue.command()
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
def detach(database_url: str | None) -> None:
    """Remove the triggers; what is followed is then polled for. It may be repeated."""
    from gateway.flue import schema

    _finish(database_url, schema.detach)
    click.echo("Detached: nothing of the gateway's is left on Flue's tables")


def _finish(database_url: str | None, work: Callable[[Connection], Awaitable[None]]) -> None:
    url = settings(database_url=database_url).database_url
    if url is None:
        raise Misuse("DATABASE_URL is not set: which database is the Flue app's?")
    finish(with_app(url, work))
