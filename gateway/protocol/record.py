"""A run's record as readers get it (`?meta`): Flue's RunRecord, byte for byte, then the gateway's own fields.

JSON that a client gave is kept as text and passed on untouched: numbers keep their digits, objects their order. A field
that is None is absent; a JSON `null` of a client's is the text `null`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import orjson

Status = Literal["active", "completed", "errored", "cancelled"]
STATUSES: Final[tuple[Status, ...]] = ("active", "completed", "errored", "cancelled")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run's record. Times are written as by `instant`; `input`, `result`, `error`, `metadata` are JSON texts.

    `duration_ms`: milliseconds from start to end. `lease`: seconds within which its producer promises a sign of life.
    """

    run_id: str
    status: Status
    started_at: str
    workflow_name: str | None = None
    input: bytes | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    ended_at: str | None = None
    is_error: bool | None = None
    duration_ms: int | None = None
    result: bytes | None = None
    error: bytes | None = None
    metadata: bytes | None = None
    cancel_requested_at: str | None = None
    lease: int | None = None

    @property
    def ended(self) -> bool:
        return self.status != "active"


def to_json(record: RunRecord) -> bytes:
    """The record as `GET /runs/<id>?meta` answers it, in Flue's order and without spaces."""
    return orjson.dumps(
        _present(
            runId=record.run_id,
            workflowName=record.workflow_name,
            status=record.status,
            startedAt=record.started_at,
            input=_raw(record.input),
            traceCarrier=_present(traceparent=record.traceparent, tracestate=record.tracestate) or None,
            endedAt=record.ended_at,
            isError=record.is_error,
            durationMs=record.duration_ms,
            result=_raw(record.result),
            error=_raw(record.error),
            metadata=_raw(record.metadata),
            cancelRequestedAt=record.cancel_requested_at,
            lease=record.lease,
        )
    )


def instant(moment: datetime) -> str:
    """A moment, in UTC, as JavaScript's `toISOString` writes it: milliseconds and `Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _raw(text: bytes | None) -> orjson.Fragment | None:
    return None if text is None else orjson.Fragment(text)


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
