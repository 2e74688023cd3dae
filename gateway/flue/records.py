"""What Flue has recorded of its runs: `?meta`, and their list, newest first (`runtime/run-store.ts`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import asyncpg

from gateway.flue.errors import NoSuchRun
from gateway.log.database import Database
from gateway.protocol.record import RunRecord

_COLUMNS: Final = """run_id, workflow_name, status, started_at, payload, traceparent, tracestate,
    ended_at, is_error, duration_ms, result, error"""
_ONE: Final = f"SELECT {_COLUMNS} FROM flue_runs WHERE run_id = $1"  # noqa: S608  these are our own words


class Records:
    """Reads of `flue_runs`; each is one round trip and raises Unavailable when there is no database."""

    def __init__(self, database: Database, *, readable: Callable[[str], bool]) -> None:
        self._database = database
        self._readable = readable

    async def get(self, run: str) -> RunRecord:
        """Raises NoSuchRun."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_ONE, run)
        if row is None or not self._readable(row["workflow_name"]):
            raise NoSuchRun(run)
        return _record(row)


def _record(row: asyncpg.Record) -> RunRecord:
    return RunRecord(
        run_id=row["run_id"],
        workflow_name=row["workflow_name"],
        status=row["status"],
        started_at=row["started_at"],
        input=_text(row["payload"]),
        traceparent=row["traceparent"],
        tracestate=row["tracestate"],
        ended_at=row["ended_at"],
        is_error=row["is_error"],
        duration_ms=row["duration_ms"],
        result=_text(row["result"]),
        error=_text(row["error"]),
    )


def _text(json: str | None) -> bytes | None:
    return None if json is None else json.encode()
