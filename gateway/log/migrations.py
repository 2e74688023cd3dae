"""The only DDL: numbered SQL files, each applied once, in order, by one process at a time."""

from __future__ import annotations

from importlib.resources import files

import asyncpg

_LOCK = 0x72756E67  # an advisory lock's number of our own: "rung"


async def migrate(database_url: str) -> list[str]:
    """Applies what is missing and returns the names applied. Safe to repeat, and to run from several at once."""
    connection = await asyncpg.connect(database_url, timeout=30)
    try:
        # One transaction, with a lock that ends with it: also right behind a pooler in transaction mode.
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await connection.execute("CREATE SCHEMA IF NOT EXISTS run_gateway")
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS run_gateway.migrations ("
                " name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            rows = await connection.fetch("SELECT name FROM run_gateway.migrations")
            known = {row["name"] for row in rows}
            missing = [name for name in names() if name not in known]
            for name in missing:
                await connection.execute((files(__package__) / "sql" / name).read_text())
                await connection.execute("INSERT INTO run_gateway.migrations (name) VALUES ($1)", name)
        return missing
    finally:
        await connection.close()


def names() -> list[str]:
    """All migrations that this version knows, in order."""
    folder = files(__package__) / "sql"
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
