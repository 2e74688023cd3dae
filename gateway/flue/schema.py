"""The tables that the gateway needs of a Flue app's database, and the two triggers that it may be given there."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Final

import asyncpg

from gateway.flue.errors import Unfit

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

VERSION: Final = "4"  # of Flue 1.0.0-beta.9
TABLES: Final = ("flue_runs", "flue_event_streams", "flue_event_stream_entries")
READ: Final = ["flue_conversation_stream_batches", "flue_conversation_fold_checkpoints"]  # of Flue 2.x
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = '5s'"  # all others queue behind a session that waits

_READABLE: Final = "SELECT has_table_privilege(to_regclass('flue_meta'), 'SELECT')"  # NULL: there is no such table
_FORMAT: Final = "SELECT value FROM flue_meta WHERE key = 'format_version'"  # betas have schema_version
_MISSING: Final = "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL"
_DENIED: Final = """
    SELECT name || ': ' || right_ FROM unnest($1::text[]) AS name, unnest($2::text[]) AS right_
     WHERE NOT has_table_privilege(to_regclass(name), right_) ORDER BY 1
"""


async def check(connection: Connection, *, ends_runs: bool) -> None:
    """Checks that this is the database of a Flue app of a known version, with the rights that are needed.

    Raises Unfit.
    """
    if await format_of(connection) is not None:
        raise Unfit("this is Flue 2.x, which has conversations and no runs: use GATEWAY_FLUE_AGENTS, not GATEWAY_FLUE")
    tables = ["flue_meta", *TABLES]
    await _there(connection, tables)
    await _may(connection, tables, ["SELECT"])
    version = await connection.fetchval("SELECT value FROM flue_meta WHERE key = 'schema_version'")
    if version != VERSION:
        raise Unfit(f"Flue's tables are of schema version {version or 'unknown'}; this gateway knows version {VERSION}")
    if ends_runs:
        await _may(connection, list(TABLES), ["SELECT", "INSERT", "UPDATE"])


async def check_agents(connection: Connection, *, reads: bool = False) -> None:
    """Checks that the tables of a Flue 2.x app may be read, if it has made them already. Raises Unfit.

    `reads`: those of what its conversations say, too.
    """
    if not await connection.fetchval("SELECT to_regclass('flue_meta') IS NOT NULL"):
        return
    await _may(connection, ["flue_meta"], ["SELECT"])
    if await format_of(connection) is None:
        raise Unfit("this is a beta of Flue, which has runs: use GATEWAY_FLUE, not GATEWAY_FLUE_AGENTS")
    tables = ["flue_agent_submissions", "flue_conversation_streams"]
    await _may(connection, tables + READ if reads else tables, ["SELECT"])


async def format_of(connection: Connection) -> str | None:
    """The format version of Flue 2.x's tables; None: they are none. Raises what the driver does."""
    if not await connection.fetchval(_READABLE):
        return None
    found: str | None = await connection.fetchval(_FORMAT)
    return found


async def attach(connection: Connection) -> None:
    """Puts the triggers there, in one transaction. Raises Unfit, and what the driver does."""
    if await format_of(connection) is not None:
        await _there(connection, READ)
        await _may(connection, READ[:1], ["TRIGGER"])
        await _run(connection, "tell.sql", "conversations/attach.sql")
        return
    await check(connection, ends_runs=False)
    await _may(connection, ["flue_event_streams", "flue_event_stream_entries"], ["TRIGGER"])
    await _run(connection, "tell.sql", "attach.sql")


async def detach(connection: Connection) -> None:
    """Takes them away, in one transaction. Raises what the driver does."""
    await _run(connection, "detach.sql")


async def _run(connection: Connection, *scripts: str) -> None:
    async with connection.transaction():
        await connection.execute(_LOCK_TIMEOUT)
        for script in scripts:
            await connection.execute((files(__package__) / script).read_text())


async def _there(connection: Connection, tables: list[str]) -> None:
    missing = [row["name"] for row in await connection.fetch(_MISSING, tables)]
    if missing:
        raise Unfit(f"no table {', '.join(missing)}: the Flue app makes them when it starts on this database")


async def _may(connection: Connection, tables: list[str], rights: list[str]) -> None:
    denied = [str(row[0]) for row in await connection.fetch(_DENIED, tables, rights)]
    if denied:
        user = await connection.fetchval("SELECT current_user")
        raise Unfit(f"the database user {user} lacks rights on Flue's tables ({', '.join(denied)})")
