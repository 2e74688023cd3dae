"""`run-gateway settings`: what is in force, and where it comes from; secrets are not shown."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from gateway.process.exit_codes import settings as load
from gateway.settings import Settings, variable


@click.command(short_help="Show the settings that are in force.")
@click.option("--all", "everything", is_flag=True, help="Those that have their defaults, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def settings(everything: bool, as_json: bool) -> None:
    """Show the settings that `serve` would have: those of the environment and, with --all, those that have their
    defaults, which say so. The values of secrets are not shown.
    """
    chosen = load()
    shown: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        given = bool(os.environ.get(variable(name)))
        if given or everything:
            value = getattr(chosen, name)
            shown[variable(name)] = "(set, not shown)" if given and not field.repr else _plain(value)
    if as_json:
        click.echo(json.dumps(shown))
        return
    for name, value in shown.items():
        source = "" if os.environ.get(name) else "  (default)"
        click.echo(f"{name}={'' if value is None else value}{source}")
    if not everything:
        told = "These are of the environment" if shown else "Every setting has its default"
        click.echo(f"{told}; --all shows the defaults.", err=True)


def _plain(value: object) -> object:
    return value if isinstance(value, bool | int | float | str | None) else str(value)
