"""`run-gateway`: what a person or a container types. The commands translate; the work is done elsewhere."""

from __future__ import annotations

import click

from gateway.cli.append import append
from gateway.cli.demo import demo
from gateway.cli.flue import flue
from gateway.cli.migrate import migrate
from gateway.cli.rotate import rotate_token_key, rotate_webhook_key
from gateway.cli.serve import serve
from gateway.cli.tail import tail


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="run-gateway", message="%(prog)s %(version)s")
def main() -> None:
    """Keeps the events of runs in Postgres, and serves them over Durable Streams from any Machine."""


for command in (serve, migrate, tail, append, demo, flue, rotate_token_key, rotate_webhook_key):
    main.add_command(command)
