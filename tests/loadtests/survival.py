"""Runs of the survival harness as its users start it."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from tests.tools.forks import fork_with_pipes

PATIENCE = 400.0


async def survival(*arguments: str) -> tuple[int | None, dict[str, Any]]:
    """The exit code and the report of one run with a Postgres of its own."""
    env = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    process = await fork_with_pipes("loadtests.survival", ["--json", *arguments], env, forks=True)
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    except BaseException:
        process.terminate()
        await process.wait()
        raise
    assert out, err.decode()
    # A Postgres that is repaired prints its prompt before.
    return process.returncode, json.loads(out[out.index(b"{") :])


def faults(report: dict[str, Any]) -> set[str]:
    """The kinds that there were; and those that could not be, of which CI has none."""
    left_out = {row.removeprefix("left out: ") for row in report if row.startswith("left out: ")}
    assert not left_out or "CI" not in os.environ, report
    return left_out | {row.removeprefix("fault: ") for row in report if row.startswith("fault: ")}
