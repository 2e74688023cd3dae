"""The database of a Machine, before the Machine starts: which one, does it answer, is its schema up to date.

What fails here is a person's matter and is said in one line that names the database, never its password.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg
import click

from gateway.cli.endings import Failure
from gateway.log.connect import FAULTS, connect, hears
from gateway.log.direct import listening_addresses
from gateway.log.embedded import EmbeddedPostgres, EmbeddedPostgresError
from gateway.log.migrations import migrate
from gateway.settings import Settings

CONNECT_TIMEOUT = 10.0


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[str]:
    """The address of a database that answers: the one that is set, or an embedded one while it is used."""
    if settings.database_url is not None:
        await _answers(settings.database_url)
        yield settings.database_url
        return
    click.echo(f"No DATABASE_URL: using an embedded Postgres in {settings.data_dir}")
    postgres = EmbeddedPostgres(settings.data_dir)
    try:
        url = await postgres.start()
    except EmbeddedPostgresError as error:
        raise Failure(str(error)) from error
    try:
        yield url
    finally:
        await postgres.stop()


async def update(url: str) -> list[str]:
    """Bring the schema up to date; the names of what was applied. Raises Failure."""
    try:
        return await migrate(url)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Failure(f"cannot bring the schema of {name(url)} up to date: {line(error)}") from error


async def must_be_there(url: str) -> None:
    """Make sure that there is a schema where nobody asked to make it; of what age is another matter. Raises Failure."""
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, statement_cache_size=0)
        try:
            there = await connection.fetchval("SELECT to_regnamespace('run_gateway') IS NOT NULL")
        finally:
            await connection.close()
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Failure(f"cannot reach the database {name(url)}: {line(error)}") from error
    if not there:
        raise Failure(f"{name(url)} has no schema run_gateway: `run-gateway migrate` makes it")


async def must_listen(url: str, given: str | None) -> None:
    """Make sure that news will arrive by LISTEN. Raises Failure."""
    for address in listening_addresses(url, given):
        with contextlib.suppress(*FAULTS):
            connection = await connect(address, timeout=CONNECT_TIMEOUT, command_timeout=CONNECT_TIMEOUT)
            try:
                if await hears(connection, lambda: connect(url, timeout=CONNECT_TIMEOUT)):
                    return
            finally:
                connection.terminate()
    raise Failure(
        "a notification that is sent to the database does not arrive on LISTEN, as behind a pooler in transaction mode:"
        " set LISTEN_DATABASE_URL to its direct address, or do without GATEWAY_REQUIRE_LISTEN"
    )


async def _answers(url: str) -> None:
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, statement_cache_size=0)
        await connection.close()
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Failure(f"cannot reach the database {name(url)}: {line(error)}") from error


def name(url: str) -> str:
    """A database as it may be shown."""
    # Only these two parts: a password may stand before the @ as well as in the query.
    address = urlsplit(url)
    host = address.netloc.rpartition("@")[2] or parse_qs(address.query).get("host", ["localhost"])[0]
    return f"{address.path.removeprefix('/') or 'postgres'} at {host}"


def line(error: BaseException) -> str:
    """What is wrong, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
