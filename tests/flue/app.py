"""A Flue app as its Postgres sees it: the statements of one run, in Flue's order, each where Flue commits.

They are those of wire/42 in the recordings that this was written from: a row for the run, one for its stream, a
transaction for each event, `closed`, and the run's end.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

HERE: Final = Path(__file__).parent
RECORDINGS: Final = HERE.parent.parent / "gateway" / "recordings"
TABLES: Final = (HERE / "tables.sql").read_text()


def recording(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record and the events of a run that a real Flue server has made."""
    record = json.loads((RECORDINGS / f"{name}.record.json").read_text())
    return record, json.loads((RECORDINGS / f"{name}.json").read_text())


def stringify(value: object) -> str:
    """As JavaScript's JSON.stringify."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


class App:
    """One Flue server over a database. Each call commits as Flue's own does."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    @asynccontextmanager
    async def start(cls, database_url: str, *, tables: bool = False) -> AsyncIterator[App]:
        """`tables`: makes them, as the first boot does."""
        connection = await asyncpg.connect(database_url)
        try:
            if tables:
                await connection.execute(TABLES)
            yield cls(connection)
        finally:
            await connection.close()

    async def admit(self, record: dict[str, Any]) -> None:
        """The run is there, without a stream."""
        carrier = record.get("traceCarrier", {})
        await self.connection.execute(
            "INSERT INTO flue_runs (run_id, workflow_name, status, started_at, payload, traceparent, tracestate)"
            " VALUES ($1, $2, 'active', $3, $4, $5, $6) ON CONFLICT (run_id) DO NOTHING",
            record["runId"],
            record["workflowName"],
            record["startedAt"],
            stringify(record["input"]) if "input" in record else None,
            carrier.get("traceparent"),
            carrier.get("tracestate"),
        )

    async def create_stream(self, run: str) -> None:
        await self.connection.execute(
            "INSERT INTO flue_event_streams (path) VALUES ($1) ON CONFLICT (path) DO NOTHING", f"runs/{run}"
        )

    async def append(self, run: str, event: object) -> int:
        """The event's number. Raises RuntimeError when the stream is closed, as Flue does."""
        async with self.connection.transaction():
            tail = await self.connection.fetchval(
                "UPDATE flue_event_streams SET next_offset = next_offset + 1"
                " WHERE path = $1 AND closed = FALSE RETURNING next_offset",
                f"runs/{run}",
            )
            if tail is None:
                raise RuntimeError(f'[flue] Event stream "runs/{run}" is closed.')
            await self.connection.execute(
                "INSERT INTO flue_event_stream_entries (path, seq, data) VALUES ($1, $2, $3)",
                f"runs/{run}",
                tail - 1,
                event if isinstance(event, str) else stringify(event),
            )
        return int(tail) - 1

    async def close(self, run: str) -> None:
        await self.connection.execute("UPDATE flue_event_streams SET closed = TRUE WHERE path = $1", f"runs/{run}")

    async def end(self, record: dict[str, Any]) -> None:
        await self.connection.execute(
            "UPDATE flue_runs SET status = $1, ended_at = $2, is_error = $3, duration_ms = $4, result = $5, error = $6"
            " WHERE run_id = $7",
            record["status"],
            record["endedAt"],
            record["isError"],
            record["durationMs"],
            stringify(record["result"]) if "result" in record else None,
            stringify(record["error"]) if "error" in record else None,
            record["runId"],
        )

    async def begin(self, run: str, workflow: str = "ticker") -> None:
        """A run with an empty stream."""
        await self.admit(
            {"runId": run, "workflowName": workflow, "startedAt": "2026-11-23T01:49:29.448Z", "input": {"n": 3}}
        )
        await self.create_stream(run)

    async def play(self, record: dict[str, Any], events: list[dict[str, Any]]) -> None:
        """A whole run, to its end."""
        await self.admit(record)
        await self.create_stream(record["runId"])
        for event in events:
            await self.append(record["runId"], event)
        await self.close(record["runId"])
        await self.end(record)


def event(run: str, index: int, **more: Any) -> dict[str, Any]:
    """An event as a workflow's `log` makes it."""
    return {
        "type": "log", "level": "info", "message": f"tick {index}", **more,
        "runId": run, "v": 3, "eventIndex": index, "timestamp": "2026-11-23T01:49:30.454Z",
    }  # fmt: skip
