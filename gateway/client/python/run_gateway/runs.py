"""Runs as they are looked at and steered: their records, lists, cancels and tokens."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import urlencode

import orjson

from run_gateway.address import checked, gateway_of
from run_gateway.errors import BadAnswer
from run_gateway.events import mapping
from run_gateway.session import Session, refusal
from run_gateway.sharing import sharing

Status = Literal["active", "completed", "errored", "cancelled"]
WAIT: Final = 20.0  # seconds of one question; proxies' time-outs are longer


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run's record. In lists, `input`, `result` and `error` are None."""

    id: str
    status: Status
    started_at: datetime
    workflow: str | None = None
    input: Any = None
    ended_at: datetime | None = None
    duration_ms: int | None = None
    result: Any = None
    error: Any = None
    metadata: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    cancel_requested_at: datetime | None = None
    lease: int | None = None

    @property
    def ended(self) -> bool:
        return self.status != "active"


async def get_run(url: str, *, token: str | None = None, session: Session | None = None) -> RunRecord:
    """The record of a run at its address. Raises ClientError: NoSuchStream if there is none."""
    return _record(await _asked("GET", f"{checked(url)}?meta", token, session))


async def wait(
    url: str, *, timeout: float | None = None, token: str | None = None, session: Session | None = None
) -> RunRecord:
    """The record of a run once it has ended. Raises TimeoutError after so many seconds, and ClientError."""
    clock = asyncio.get_running_loop().time
    until = math.inf if timeout is None else clock() + timeout
    while True:
        seconds = max(0.0, min(WAIT, until - clock()))
        record = _record(await _asked("GET", f"{checked(url)}?meta&wait={seconds:.3f}", token, session))
        if record.ended:
            return record
        if clock() >= until:
            raise TimeoutError(f"{url} has not ended within {timeout:g} seconds")


async def list_runs(
    url: str,
    *,
    status: Status | None = None,
    workflow: str | None = None,
    metadata: Mapping[str, str | int | float | bool] | None = None,
    limit: int | None = None,
    token: str | None = None,
    session: Session | None = None,
) -> AsyncIterator[RunRecord]:
    """The records of a gateway's runs, the newest first, page by page as they are asked for; at most `limit`.

    `url`: the gateway's address. Raises ClientError.
    """
    if metadata is not None:
        mapping("metadata", metadata)
    asked: dict[str, Any] = {"status": status, "workflowName": workflow}
    asked |= {f"metadata.{name}": _text(value) for name, value in (metadata or {}).items()}
    query = {name: value for name, value in asked.items() if value is not None}
    left = math.inf if limit is None else limit
    while left > 0:
        page = await _asked(
            "GET", f"{gateway_of(url)}/runs?{urlencode(query | {'limit': min(left, 100)})}", token, session
        )
        for run in page["runs"]:
            yield _record(run)
        left -= len(page["runs"])
        if "nextCursor" not in page:
            return
        query["cursor"] = page["nextCursor"]


async def cancel(
    url: str, reason: str | None = None, *, token: str | None = None, session: Session | None = None
) -> None:
    """Asks a run to stop. Raises ClientError: Refused if it has ended."""
    await _asked("POST", f"{checked(url)}/cancel", token, session, {} if reason is None else {"reason": reason})


async def token(
    url: str,
    *,
    ttl: int | None = None,
    control: bool = False,
    token: str | None = None,
    session: Session | None = None,
) -> str:
    """A token with which others may read this run alone, and with `control` cancel it, for `ttl` seconds.

    Raises ClientError: NoSuchStream from a gateway that lets everyone in, where no token is needed.
    """
    asked: dict[str, Any] = {"control": control} | ({} if ttl is None else {"ttl": ttl})
    made: str = (await _asked("POST", f"{checked(url)}/token", token, session, asked))["token"]
    return made


async def _asked(
    method: str, url: str, token: str | None, session: Session | None, body: Mapping[str, Any] | None = None
) -> Any:
    async with AsyncExitStack() as stack:
        if session is None:
            session = await stack.enter_async_context(sharing(token))
        content = b"" if body is None else orjson.dumps(body)
        response = (await session.send(method, url, {"content-type": "application/json"}, content)).response
    if response.status_code not in (200, 201, 202):
        raise refusal(response)
    try:
        return json.loads(response.content) if response.content else {}
    except ValueError:
        raise BadAnswer(f"{url}: not JSON: is this a run gateway?") from None


def _record(told: dict[str, Any]) -> RunRecord:
    def moment(name: str) -> datetime | None:
        return datetime.fromisoformat(told[name]) if name in told else None

    try:
        return RunRecord(
            id=told["runId"],
            status=told["status"],
            started_at=datetime.fromisoformat(told["startedAt"]),
            workflow=told.get("workflowName"),
            input=told.get("input"),
            ended_at=moment("endedAt"),
            duration_ms=told.get("durationMs"),
            result=told.get("result"),
            error=told.get("error"),
            metadata=told.get("metadata", {}),
            cancel_requested_at=moment("cancelRequestedAt"),
            lease=told.get("lease"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadAnswer(f"a record that is none: {error!r}") from None


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
