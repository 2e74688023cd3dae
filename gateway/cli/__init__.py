"""`run-gateway`: what a person or a container types. The commands translate; the work is done elsewhere."""

from __future__ import annotations

import difflib

import click

from gateway.cli.append import append
from gateway.cli.check import check
from gateway.cli.demo import demo
from gateway.cli.flue import flue
from gateway.cli.key import key
from gateway.cli.migrate import migrate
from gateway.cli.relay import relay
from gateway.cli.rotate import rotate_token_key, rotate_webhook_key
from gateway.cli.runs import cancel, delete, runs, show, token
from gateway.cli.serve import serve
from gateway.cli.settings import settings
from gateway.cli.tail import tail


class _Commands(click.Group):
    """A group that lists its commands in the order in which a newcomer needs them, and knows what was meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            meant = difflib.get_close_matches(args[0], self.commands, 1)
            if not meant:
                raise
            raise click.UsageError(f"{error.message} Is {meant[0]!r} meant?", ctx) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="run-gateway", message="%(prog)s %(version)s")
def main() -> None:
    """Keeps the events of runs in Postgres, and serves them over Durable Streams from any Machine."""


for command in (
    serve,
    demo,
    append,
    tail,
    runs,
    show,
    cancel,
    delete,
    token,
    key,
    settings,
    check,
    migrate,
    rotate_token_key,
    rotate_webhook_key,
    flue,
    relay,
):
    main.add_command(command)
