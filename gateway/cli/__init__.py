"""`run-gateway`: what a person or a container types. The commands translate; the work is done elsewhere."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from gateway.process.exit_codes import Failure

COMMANDS: Final = {
    "serve": "serve",
    "demo": "demo",
    "init": "init",
    "append": "append",
    "tail": "tail",
    "runs": "runs",
    "show": "runs",
    "cancel": "runs",
    "delete": "runs",
    "token": "runs",
    "key": "key",
    "settings": "settings",
    "check": "check",
    "migrate": "migrate",
    "rotate-token-key": "rotate",
    "rotate-webhook-key": "rotate",
    "flue": "flue",
    "relay": "relay",
}
"""Every command, and the module that it is in."""


class _Commands(click.Group):
    """A group that lists its commands in the order in which a newcomer needs them, and knows what was meant. It imports
    the command that is typed, and no other.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        return None if module is None else _command(cmd_name, module)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # seldom needed

            meant = get_close_matches(args[0], COMMANDS, 1)
            if not meant:
                raise
            raise click.UsageError(f"{error.message} Is {meant[0]!r} meant?", ctx) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="run-gateway", message="%(prog)s %(version)s")
def main() -> None:
    """Keeps the events of runs in Postgres, and serves them over Durable Streams from any Machine."""


def _command(name: str, module: str) -> click.Command:
    """A command; where what it needs is not installed, one that says so."""
    try:
        found = getattr(import_module(f"gateway.cli.{module}"), name.replace("-", "_"))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("gateway", "run_gateway"):
            raise
        return _missing(name, error.name)
    assert isinstance(found, click.Command)
    return found


def _missing(name: str, what: str) -> click.Command:
    @click.command(
        name,
        short_help="Needs the server: pip install 'run-gateway[server]'.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
    )
    @click.argument("_", nargs=-1, type=click.UNPROCESSED)
    def missing(_: tuple[str, ...]) -> None:
        raise Failure(f"{name} needs the server, which is not installed: pip install 'run-gateway[server]' (no {what})")

    return missing
