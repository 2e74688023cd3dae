"""`run-gateway check`: whether a Machine would start with these settings on this host, and what it would lack."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from gateway.process.exit_codes import Failure, finish, settings
from gateway.settings import Settings
from gateway.settings.listing import misspelt, unread_in

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@click.command(short_help="Say what would stop a deploy.")
@click.option("--database-url", metavar="URL", help="Instead of DATABASE_URL.")
@click.option("--listen-database-url", metavar="URL", help="Instead of LISTEN_DATABASE_URL.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def check(database_url: str | None, listen_database_url: str | None, as_json: bool) -> None:
    """Say what would stop a deploy with these settings: address, keys, proxy headers, descriptors, io_uring, the
    database's rights, encoding, schema, connections and clock, its replica, and where LISTEN works. Changes nothing;
    exit code 1 if something would.
    """
    chosen = settings(database_url=database_url, listen_database_url=listen_database_url)
    finish(_check(chosen, as_json))


async def _check(settings: Settings, as_json: bool) -> None:
    from gateway.process.preflight import Finding, inspect  # the driver is for those who need a database

    failed = 0

    def say(finding: Finding) -> None:
        click.echo(json.dumps(finding._asdict()) if as_json else f"{_MARKS[finding.verdict]}  {finding.text}")

    for name, meant in misspelt(os.environ):
        say(Finding("warn", f"{name} is no setting, and changes nothing: is {meant} meant?"))
    if unread := unread_in(Path(".env"), os.environ):
        say(Finding("warn", f"The file .env is not read, and has {', '.join(unread)}: `set -a; . ./.env` sets them."))
    async for finding in inspect(settings):
        failed += finding.verdict == "fail"
        say(finding)
    if failed:
        raise Failure(f"{failed} of these would stop it")
