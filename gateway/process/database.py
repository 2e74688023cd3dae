"""The database of a Machine, before the Machine starts: which one, does it answer, is its schema up to date.

A database that does not answer is waited for: it may be starting, or failing over. What fails here only a person can
mend, so it is told in one line that names the database, and never its password.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import asyncpg
import click

from gateway.log import durability
from gateway.log.address import read
from gateway.log.connect import FAULTS, connect, hears
from gateway.log.listen_address import listening_addresses
from gateway.log.migrations import migrate, missing, names
from gateway.process.exit_codes import Failure
from gateway.settings import Settings
from gateway.wording import one_line

logger = logging.getLogger("gateway.process.database")

CONNECT_TIMEOUT = 10.0
PAUSE = 0.5
"""Seconds between one attempt to reach the database and the next."""

_ENCODINGS = ("UTF8", "SQL_ASCII")
"""Encodings that keep every event as it came; SQL_ASCII looks at no byte."""

OLDEST = 15
"""The oldest major version of Postgres that this is tried with."""

_PASSING = (
    OSError,  # nobody listens, no answer in time, a name that is not known yet
    asyncpg.PostgresConnectionError,  # as PgBouncer says it
    asyncpg.OperatorInterventionError,  # it starts, or stops
    asyncpg.InsufficientResourcesError,  # no room for one more connection
)
"""Faults that may have gone a moment later, unlike a wrong password or a database that does not exist."""


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[str]:
    """The address of a database that answers: the one that is set, or an embedded one while it is used."""
    if settings.database_url is not None:
        await _answers(settings.database_url, settings.database_wait)
        _say_what_is_left_out(settings.database_url)
        yield settings.database_url
        return
    from gateway.embedded import EmbeddedPostgres, EmbeddedPostgresError

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


async def update(
    url: str, applied: Callable[[str], None] = lambda _: None, lacking: Callable[[int], None] = lambda _: None
) -> list[str]:
    """Brings the schema up to date, and returns the names of what was applied. Raises Failure.

    `lacking` is told how many there are, and `applied` each name as it comes, before all of it is committed.
    """
    try:
        return await migrate(url, applied=applied, lacking=lacking)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Failure(f"cannot bring the schema of {name(url)} up to date: {one_line(error)}") from error


async def must_be_there(url: str) -> None:
    """Makes sure that there is a schema, no older than this program, when it is not to be made here. Raises Failure.

    It may be newer, while a deploy is under way.
    """
    try:
        lacking = await missing(url)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise Failure(f"cannot read the schema of {name(url)}: {one_line(error)}") from error
    if lacking == names():
        raise Failure(f"{name(url)} has no schema run_gateway: `run-gateway migrate` makes it")
    if lacking:
        raise Failure(
            f"{name(url)} has a schema run_gateway that is older than this program: `run-gateway migrate` applies"
            f" {', '.join(lacking)}"
        )


async def say_what_it_promises(url: str) -> None:
    """Logs what the database promises of a commit. Raises Failure."""
    try:
        connection = await connect(url, timeout=CONNECT_TIMEOUT, command_timeout=CONNECT_TIMEOUT)
        try:
            promise = await durability.ask(connection)
            read_only = await durability.is_read_only(connection)
        finally:
            connection.terminate()
    except FAULTS as error:
        raise Failure(f"cannot ask {name(url)} for its settings: {one_line(error)}") from error
    logger.info("The database is %s.", promise)
    for warning in (*promise.warnings, *([durability.READ_ONLY] if read_only else [])):
        logger.warning(warning)


async def must_listen(url: str, given: str | None) -> None:
    """Makes sure that news will arrive by LISTEN. Raises Failure."""
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


def _say_what_is_left_out(url: str) -> None:
    left_out = read(url).left_out
    if left_out:
        logger.info("The address of the database has options that mean nothing here: %s.", ", ".join(left_out))


async def _answers(url: str, patience: float) -> None:
    """Waits for its first answer, `patience` seconds at most. Raises Failure."""
    clock = asyncio.get_running_loop().time
    until, told = clock() + patience, ""
    while True:
        try:
            fault = await _ask(url)
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            reason = one_line(error)
            if not isinstance(error, _PASSING) or clock() >= until:
                raise Failure(f"cannot reach the database {name(url)}: {reason}") from error
        else:
            break
        if reason != told:
            logger.warning("Cannot reach the database %s yet (%s); trying for %g s.", name(url), reason, patience)
        told = reason
        await asyncio.sleep(min(PAUSE, max(0.0, until - clock())))
    if told:
        logger.info("The database %s answers.", name(url))
    if fault is not None:
        raise Failure(f"the database {name(url)} {fault}")


def unfit(major: int, encoding: str) -> str | None:
    """Why the log cannot be in a database of this version and encoding, in words that follow its name; None: it can."""
    if major < OLDEST:
        return f"is of Postgres {major}: the log needs Postgres {OLDEST} or later"
    if encoding not in _ENCODINGS:
        return (
            f"has the encoding {encoding}, which lacks most characters: events need a database that was created with"
            " ENCODING 'UTF8'"
        )
    return None


async def _ask(url: str) -> str | None:
    """Asks anything at all, and returns why the log cannot be in this database; None: it can."""
    connection = await connect(url, timeout=CONNECT_TIMEOUT)
    try:
        # A pooler takes clients without a server; and it may give the halves of a prepared statement different ones.
        await connection.execute("SELECT 1", timeout=CONNECT_TIMEOUT)
        fault = unfit(connection.get_server_version().major, connection.get_settings().server_encoding)
        await connection.close(timeout=CONNECT_TIMEOUT)
        return fault
    finally:
        connection.terminate()


def name(url: str) -> str:
    """A database in words that may be shown, for they hold no password."""
    # Only these two parts of the address: both the login and the query may hold a password.
    address = urlsplit(url)
    host = address.netloc.rpartition("@")[2] or parse_qs(address.query).get("host", ["localhost"])[0]
    return f"{address.path.removeprefix('/') or 'postgres'} at {host}"
