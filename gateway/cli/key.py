"""`run-gateway key`: credentials for services, made where they are needed and stored nowhere."""

from __future__ import annotations

import secrets
from typing import Final

import click

from gateway.auth.keys import Keys
from gateway.auth.principal import SCOPES
from gateway.process.exit_codes import Misuse, note
from gateway.settings import BadSetting

BYTES: Final = 32
"""Of chance in a secret."""


@click.group(short_help="Make keys for services.")
def key() -> None:
    """Keys for services, as GATEWAY_KEYS and GATEWAY_KEYS_FILE hold them."""


@key.command(short_help="Print a new key.")
@click.argument("name")
@click.option(
    "--scopes",
    default="read,write,control",
    show_default=True,
    metavar="SCOPES",
    help=f"What its holder may do, with commas between: {', '.join(sorted(SCOPES))}.",
)
@click.option("--tenant", metavar="TENANT", help="The tenant that it belongs to.")
def new(name: str, scopes: str, tenant: str | None) -> None:
    """Print the line of a new key for the service NAME: a word of GATEWAY_KEYS, or a line of GATEWAY_KEYS_FILE.

    What follows the last colon is the secret, which the service sends as `Authorization: Bearer SECRET`.
    """
    line = f"{name}{f'@{tenant}' if tenant else ''}:{scopes}:{secrets.token_urlsafe(BYTES)}"
    try:
        Keys(line, None)
    except BadSetting as error:
        raise Misuse(str(error).partition(": ")[2]) from None
    click.echo(line)
    note("nothing was stored: put it into GATEWAY_KEYS or GATEWAY_KEYS_FILE of every Machine, with AUTH=keys")
