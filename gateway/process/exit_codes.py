"""Exit codes: 0 with its work done, 1 with one line that says why not, 2 for misuse, 130 for Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gateway.settings import Settings


class Failure(click.ClickException):
    """The command cannot do what was asked; one line on stderr, exit code 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the one line."""
        note(self.message)


class Misuse(Failure):
    """A setting or an argument has a value that cannot be used; exit code 2."""

    exit_code = 2


def note(text: str) -> None:
    """A line for the person at the terminal, not for what reads stdout."""
    click.echo(f"run-gateway: {text}", err=True)


def settings(**flags: Any) -> Settings:
    """The settings of a command. Raises Misuse."""
    from gateway.settings import BadSetting, load  # which what only talks to a Machine does without

    try:
        return load(**flags)
    except BadSetting as error:
        raise Misuse(str(error)) from None


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Runs the work of a command, and turns what stops it into an exit code. Raises Failure."""
    from gateway.client import ClientError, NotLetIn  # which a Machine does without

    try:
        asyncio.run(work)
    except NotLetIn as error:
        raise Failure(f"{error} (--token, or the variable RUN_GATEWAY_TOKEN)") from None
    except ClientError as error:
        raise Failure(str(error)) from None
    except KeyboardInterrupt:
        sys.exit(130)
