"""Breaks the log that a Machine is about to use: one of its scripts of functions with some places changed."""

from __future__ import annotations

import asyncio
import os
from importlib.resources import files

import asyncpg

SCRIPTS = files("gateway.log") / "sql" / "functions"


def break_log(script: str, *changes: tuple[str, str]) -> None:
    """Raises AssertionError where a place is not there (any more)."""
    text = (SCRIPTS / script).read_text()
    for right, wrong in changes:
        assert right in text
        text = text.replace(right, wrong)
    asyncio.run(_apply(text, (SCRIPTS / "waiting.sql").read_text()))


async def _apply(*scripts: str) -> None:
    connection = await asyncpg.connect(os.environ["DATABASE_URL"], statement_cache_size=0)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(1)")  # all Machines do it at once
            for script in scripts:
                await connection.execute(script)
    finally:
        await connection.close()
