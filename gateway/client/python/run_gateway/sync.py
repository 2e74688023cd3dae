"""The client's functions for code without a loop: each returns when it is done, and raises what its namesake raises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping

from run_gateway import runs
from run_gateway.portal import portal
from run_gateway.runs import RunRecord, Status

__all__ = ["cancel", "get_run", "list_runs", "token", "wait"]


def get_run(url: str, *, token: str | None = None) -> RunRecord:
    """As `run_gateway.get_run`."""
    with portal() as there:
        return there.call(runs.get_run(url, token=token))


def wait(url: str, *, timeout: float | None = None, token: str | None = None) -> RunRecord:
    """As `run_gateway.wait`."""
    with portal() as there:
        return there.call(runs.wait(url, timeout=timeout, token=token))


def list_runs(
    url: str,
    *,
    status: Status | None = None,
    workflow: str | None = None,
    metadata: Mapping[str, str | int | float | bool] | None = None,
    limit: int | None = None,
    token: str | None = None,
) -> Iterator[RunRecord]:
    """As `run_gateway.list_runs`."""
    found = runs.list_runs(url, status=status, workflow=workflow, metadata=metadata, limit=limit, token=token)
    with portal() as there:
        while (record := there.call(_next(found))) is not None:
            yield record


async def _next(records: AsyncIterator[RunRecord]) -> RunRecord | None:
    return await anext(records, None)


def cancel(url: str, reason: str | None = None, *, token: str | None = None) -> None:
    """As `run_gateway.cancel`."""
    with portal() as there:
        there.call(runs.cancel(url, reason, token=token))


def token(url: str, *, ttl: int | None = None, control: bool = False, token: str | None = None) -> str:
    """As `run_gateway.token`."""
    with portal() as there:
        return there.call(runs.token(url, ttl=ttl, control=control, token=token))
