"""`run-gateway serve`: what is typed, and the settings that it lists."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from gateway.cli.endings import settings
from gateway.settings import rows


class _Serve(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment (a flag goes before it)"):
            formatter.write_dl(
                [
                    (row.variable, f"{row.description}{f'  [default: {row.default}]' if row.default else ''}")
                    for row in rows()
                ]
            )


@click.command(cls=_Serve)
@click.option("--host", metavar="ADDRESS", help="Instead of HOST.")
@click.option("--port", metavar="PORT", help="Instead of PORT.")
@click.option("--data-dir", metavar="FOLDER", help="Instead of GATEWAY_DATA_DIR.")
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
@click.option("--listen-database-url", metavar="URL", help="Instead of LISTEN_DATABASE_URL.")
@click.option("--migrate/--no-migrate", default=None, help="Instead of GATEWAY_MIGRATE.")
@click.option("--log-level", metavar="LEVEL", help="Instead of GATEWAY_LOG_LEVEL.")
def serve(**flags: Any) -> None:
    """Serve runs over HTTP: one Machine. SIGTERM and Ctrl-C end it cleanly, a second Ctrl-C at once."""
    chosen = settings(**flags)
    _log_to_stderr(chosen.log_level)
    from gateway.cli.server import (
        run,
    )  # the web framework takes half a second to import: not for every command

    sys.exit(run(chosen))


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # uvicorn tells of its own start and stop at INFO, in five lines that say what ours says in one.
    if level == "info":
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
