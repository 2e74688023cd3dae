"""Flue's records of its runs: `?meta`, and their list, newest first (`runtime/run-store.ts`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from gateway.flue.errors import NoSuchRun
from gateway.flue.readable import Readable
from gateway.log.database import Database
from gateway.log.lists import Lists
from gateway.protocol.record import RunRecord

_COLUMNS: Final = """run_id, workflow_name, status, started_at, payload, traceparent, tracestate,
    ended_at, is_error, duration_ms, result, error"""
_NARROW: Final = "run_id, workflow_name, status, started_at, ended_at, is_error, duration_ms"
_ONE: Final = f"SELECT {_COLUMNS} FROM flue_runs WHERE run_id = $1"  # noqa: S608  these are our own words


_PAGE: Final = f"""
    SELECT {_NARROW} FROM flue_runs
     WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR workflow_name = $2)
       AND ($3::text[] IS NULL OR workflow_name = ANY ($3))
       AND ($4::text IS NULL OR (started_at, run_id) < ($4, $5::text))
     ORDER BY started_at DESC, run_id DESC LIMIT $6
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class After:
    """The run that a page of a list ended with."""

    started_at: str
    run_id: str


class Records:
    """Reads of `flue_runs`; each is one round trip and raises Unavailable when there is no database."""

    def __init__(self, database: Database, *, readable: Readable, lists: Lists | None = None) -> None:
        self._database = database
        self._lists = lists or Lists(database)
        self._readable = readable

    async def get(self, run: str) -> RunRecord:
        """Raises NoSuchRun."""
        async with self._database.acquire() as connection:
            row = await connection.fetchrow(_ONE, run)
        if row is None or row["workflow_name"] not in self._readable:
            raise NoSuchRun(run)
        return _record(row)

    async def page(
        self, status: str | None, workflow: str | None, limit: int, after: After | None
    ) -> tuple[list[RunRecord], After | None]:
        """A page of records, newest first, without what may be large (input, result, error), and where it ended; None:
        it is the last page.
        """
        start = (after.started_at, after.run_id) if after else (None, None)
        names = None if self._readable.names is None else list(self._readable.names)
        rows = await self._lists.fetch("", _PAGE, status, workflow, names, *start, limit + 1)
        page = [_pointer(row) for row in rows[:limit]]
        return page, After(page[-1].started_at, page[-1].run_id) if len(rows) > limit else None


def _pointer(row: asyncpg.Record) -> RunRecord:
    return RunRecord(
        run_id=row["run_id"],
        workflow_name=row["workflow_name"],
        status=row["status"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        is_error=row["is_error"],
        duration_ms=row["duration_ms"],
    )


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
