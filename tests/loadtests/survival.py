"""Runs of the survival harness as its users start it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

PATIENCE = 400.0


async def survival(*arguments: str) -> tuple[int | None, dict[str, Any]]:
    """The exit code and the report of one run with a Postgres of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtests.survival", "--json", *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
    )  # fmt: skip
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
