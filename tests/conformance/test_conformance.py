"""The protocol's own conformance suite against a real gateway process on a real Postgres, in both namespaces.

CONFORMANCE_BASE_URL points it at a server that runs already (its long-poll must time out after 500 ms); without it,
a Machine is started for the purpose.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.node import npm_ci, require_node

HERE = Path(__file__).parent
TESTS = 338  # of @durable-streams/server-conformance-tests 0.3.6: 250 base, 82 fork, 6 subscription
LIMIT = 600  # seconds; a healthy run needs about one minute


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str | None:
    """A database for a Machine, or None where CONFORMANCE_BASE_URL names a server; not made for nothing."""
    require_node()
    if "CONFORMANCE_BASE_URL" in os.environ:
        return None
    url: str = request.getfixturevalue("database_url")
    return url


@pytest.fixture
async def base_url(database: str | None) -> AsyncIterator[str]:
    """Where the server under test listens, exactly as it names itself: the suite compares whole addresses."""
    if database is None:
        yield os.environ["CONFORMANCE_BASE_URL"].rstrip("/")
        return
    from tests.machines import Machine

    async with Machine.start(database, env={"GATEWAY_LONG_POLL_TIMEOUT": "0.5"}) as machine:
        yield machine.url


@pytest.mark.parametrize("file", ["conformance.test.mjs", "runs.test.mjs"], ids=["v1-stream", "runs"])
async def test_the_conformance_suite_passes_whole(file: str, base_url: str, tmp_path: Path) -> None:
    report = await run_suite(file, base_url, tmp_path / "report.json")
    tests = [test for suite in report["testResults"] for test in suite["assertionResults"]]
    outcomes = Counter(test["status"] for test in tests)
    assert outcomes == {"passed": TESTS}, complaint(tests, report)


async def run_suite(file: str, base_url: str, report: Path) -> Any:
    """Runs one vitest file; returns what its JSON reporter wrote. The exit code says nothing beyond that."""
    modules = npm_ci(HERE)
    process = await asyncio.create_subprocess_exec(
        require_node(),
        str(modules / "vitest" / "vitest.mjs"),
        "run",
        file,
        "--reporter=json",
        f"--outputFile={report}",
        cwd=HERE,
        env={**os.environ, "CONFORMANCE_BASE_URL": base_url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LIMIT):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return written(report, printed.decode(errors="replace"))


def written(report: Path, printed: str) -> Any:
    if not report.exists():
        pytest.fail(f"vitest wrote no report:\n{printed[-8000:]}", pytrace=False)
    return json.loads(report.read_text())


def complaint(tests: list[Any], report: Any) -> str:
    """Every test that did not pass, by its full name and with its own message; and files that did not even load."""
    parts = [f"{Counter(test['status'] for test in tests)} of {TESTS} tests"]
    for test in tests:
        if test["status"] != "passed":
            # The time is said because a timeout's own message does not reach the report.
            after = f"{test['status']} after {test.get('duration', 0):.0f} ms"
            parts += [f"{after}: {test['fullName']}", *map(first_lines, test["failureMessages"])]
    parts += [suite["message"] for suite in report["testResults"] if suite["message"]]
    return "\n".join(parts)


def first_lines(message: str) -> str:
    """The message without the stack below vitest's own frames."""
    lines = [line for line in message.splitlines() if "node_modules/@vitest" not in line]
    return "\n".join("    " + line for line in lines)[:2000]
