"""Parts of `tail` and `append`: a Machine's address, the credential, a session that says when it has to wait."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import click

from gateway.client import Session, Trouble, client
from gateway.process.exit_codes import note
from gateway.wording import seconds_of


class Span(click.ParamType[float]):
    """A time in seconds, which may have its unit with it as in settings: 90s, 7d."""

    name = "time"

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = seconds_of(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time, such as 90, 90s or 7d.", param, ctx)
        if not self._least <= seconds <= self._most:
            self.fail(f"{value} is not from {self._least:g} to {self._most:g} seconds.", param, ctx)
        return seconds


def _http_url(_: click.Context, __: click.Parameter, value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise click.BadParameter("must begin with http:// or https://")
    return value


url_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--url",
    default="http://127.0.0.1:8080",
    show_default=True,
    metavar="URL",
    callback=_http_url,
    help="Address of any Machine.",
)


def _token(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (value.isascii() and value.isprintable() and " " not in value):
        raise click.BadParameter("must be printable ASCII without spaces")
    return value or None


token_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--token",
    envvar="RUN_GATEWAY_TOKEN",
    show_envvar=True,
    metavar="TOKEN",
    callback=_token,
    help="A key, a JWT or a run's token. Better as the variable: everyone on this host sees arguments.",
)


@asynccontextmanager
async def session(*, patience: float, token: str | None = None, verbose: bool = False) -> AsyncIterator[Session]:
    """A session that reports trouble on stderr: once in a row of failures, or each time when verbose."""

    def report(trouble: Trouble) -> None:
        # The first failure is usually a Machine that went away and another that takes over: not worth a line.
        if verbose or trouble.failures == 2:
            note(f"{trouble.reason}; trying again")

    async with client(token) as http:
        yield Session(http, on_trouble=report, patience=patience)
