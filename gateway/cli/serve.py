"""`run-gateway serve`: what is typed, and the settings that it lists."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import click

from gateway.process.exit_codes import Misuse, settings
from gateway.process.logs import log_to_stderr
from gateway.settings.listing import misspelt, sections, unread_in

logger = logging.getLogger("gateway.cli.serve")


class _Serve(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment (a flag goes before it)"):
            for title, rows in sections():
                with formatter.section(title):
                    formatter.write_dl(
                        [
                            (row.variable, f"{row.description}{f'  [default: {row.default}]' if row.default else ''}")
                            for row in rows
                        ]
                    )


@click.command(cls=_Serve)
@click.option("--host", metavar="ADDRESS", help="Instead of HOST.")
@click.option("--port", metavar="PORT", help="Instead of PORT.")
@click.option("--allow-anonymous", is_flag=True, default=None, help="Instead of GATEWAY_ALLOW_ANONYMOUS=true.")
@click.option("--data-dir", metavar="FOLDER", help="Instead of GATEWAY_DATA_DIR.")
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
@click.option("--listen-database-url", metavar="URL", help="Instead of LISTEN_DATABASE_URL.")
@click.option("--workers", metavar="N", help="Instead of GATEWAY_WORKERS.")
@click.option("--migrate/--no-migrate", default=None, help="Instead of GATEWAY_MIGRATE.")
@click.option("--require-listen/--no-require-listen", default=None, help="Instead of GATEWAY_REQUIRE_LISTEN.")
@click.option("--log-level", metavar="LEVEL", help="Instead of GATEWAY_LOG_LEVEL.")
def serve(**flags: Any) -> None:
    """Serve runs over HTTP. SIGTERM and Ctrl-C end it cleanly, a second Ctrl-C at once."""
    chosen = settings(**flags)
    if chosen.open_to_all:
        raise Misuse(
            f"HOST={chosen.host} would let anyone in: set AUTH to keys or jwt,"
            " or GATEWAY_ALLOW_ANONYMOUS=true if that is meant"
        )
    log_to_stderr(chosen)
    for name, meant in misspelt(os.environ):
        logger.warning("%s is no setting, and changes nothing: is %s meant?", name, meant)
    if unread := unread_in(Path(".env"), os.environ):
        logger.warning("The file .env is not read, and has %s: `set -a; . ./.env` sets them.", ", ".join(unread))
    from gateway.process.serve import run  # the driver and the web framework take half a second: not for every command

    run(chosen)
