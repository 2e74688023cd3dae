"""The only DDL: numbered files of tables, each applied once, in order; and functions, replaced by their newest text.

A deploy is rolling: Machines of the version before go on calling what they know. So a function's arguments and results
are never changed, nor is one dropped; a call with other arguments is another function.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

import asyncpg

from gateway.log.connect import LogConnection, connect

logger = logging.getLogger(__name__)

_LOCK: Final = 0x72756E67  # the number of our own advisory lock: "rung" in ASCII
# A session that waits to change a table holds up all that come after it, also those of Machines that serve. So it waits
# for a moment only, and lets them go first: a backup reads every table for as long as it takes.
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '500ms'"
_PAUSE: Final = 1.0  # seconds
_PATIENCE: Final = 60.0  # seconds

FUNCTIONS: Final = (
    "epochs",
    "read",
    "pack",
    "news",
    "append",
    "lifecycle",
    "membership",
    "subscriptions",
    "runs",
    "relay",
    "owner",
    "transactional",
    "waiting",
    "flue",
)
"""The files of functions, each after those that it needs when it is made."""


async def migrate(
    database_url: str,
    patience: float = _PATIENCE,
    applied: Callable[[str], None] = lambda _: None,
    lacking: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Applies what is missing and returns the names applied. May be repeated, and run from several processes together.

    `lacking` is told how many there are, and `applied` each name as it comes, before all of it is committed.

    A table that another transaction holds is tried again for `patience` seconds. Raises asyncpg.LockNotAvailableError.
    """
    connection = await connect(database_url, timeout=30)
    try:
        if not await _look(connection):
            return []  # which a role that may not create anything is told as well, and on a database that is read-only
        until, told = asyncio.get_running_loop().time() + patience, False
        while True:
            try:
                return await _apply(connection, applied, lacking)
            except asyncpg.LockNotAvailableError:
                if asyncio.get_running_loop().time() >= until:
                    raise
            if not told:
                logger.warning("Another transaction holds a table that has to be changed; trying for %g s.", patience)
            told = True
            await asyncio.sleep(_PAUSE)
    finally:
        await connection.close()


async def _apply(
    connection: LogConnection, applied: Callable[[str], None], lacking: Callable[[int], None]
) -> list[str]:
    # One transaction, with a lock that ends with it: this is safe behind a pooler in transaction mode, too.
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute(_LOCK_TIMEOUT)
        await connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")  # where only we can put a name
        await connection.execute("SET LOCAL standard_conforming_strings = on")  # as the scripts are written
        await connection.execute("CREATE SCHEMA IF NOT EXISTS run_gateway")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS run_gateway.migrations ("
            " name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        names = await _missing(connection)
        lacking(len(names))
        for name in names:
            for script in _scripts(name):
                await connection.execute(script.read_text())
            await connection.execute("INSERT INTO run_gateway.migrations (name) VALUES ($1)", name)
            applied(name)
    return names


async def missing(database_url: str) -> list[str]:
    """The names that `migrate` would apply; all of them where there is no schema. Changes nothing."""
    connection = await connect(database_url, timeout=30)
    try:
        return await _look(connection)
    finally:
        await connection.close()


async def _look(connection: LogConnection) -> list[str]:
    async with connection.transaction(readonly=True):  # a pooler may give each statement another server outside of one
        there = await connection.fetchval("SELECT to_regclass('run_gateway.migrations') IS NOT NULL")
        return await _missing(connection) if there else names()


async def _missing(connection: LogConnection) -> list[str]:
    rows = await connection.fetch("SELECT name FROM run_gateway.migrations")
    known = {row["name"] for row in rows}
    lacking = [name for name in tables() if name not in known]
    # An older version that starts again beside a newer one leaves the newer one's functions alone.
    if functions() > max((name for name in known if name.startswith("functions")), default=""):
        lacking.append(functions())
    return lacking


def names() -> list[str]:
    """The names of all that this version applies to an empty database, in order."""
    return [*tables(), functions()]


def tables() -> list[str]:
    """The numbered files, in order."""
    return sorted(entry.name for entry in _folder().iterdir() if entry.name.endswith(".sql"))


def functions() -> str:
    """The name under which the functions are recorded. It goes up with every change of their text."""
    return (_folder() / "functions" / "REVISION").read_text().split()[0]


def _scripts(name: str) -> list[Traversable]:
    if name == functions():
        return [_folder() / "functions" / f"{script}.sql" for script in FUNCTIONS]
    return [_folder() / name]


def _folder() -> Traversable:
    return files(__package__) / "sql"
