"""A real Flue app, installed from npm and built on demand, and what its users do: invoke, and follow.

Where Node or the download is not to be had, the tests that ask for it are skipped, which fails in CI (tests/node.py).
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.node import Script, npm_ci, unavailable
from tests.tools.flue_server import FlueServer

APP = Path(__file__).parent / "app"


@functools.cache
def built() -> Path:
    """The app's folder, with its packages and its server. Skips the test where they cannot be had."""
    if os.uname().sysname != "Linux" or os.uname().machine != "x86_64":
        unavailable("the Flue app's own Node comes for Linux on x86-64 alone")
    npm_ci(APP)
    with open(APP / "node_modules" / ".build-lock", "w") as lock:  # one process of a test run builds, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = APP / "dist" / f".built-{_fingerprint()}"
        if not stamp.exists():
            flue = ["node_modules/.bin/node", "node_modules/.bin/flue", "build", "--target", "node"]
            done = subprocess.run(flue, cwd=APP, capture_output=True, text=True, timeout=120)
            if done.returncode:
                pytest.fail(f"the Flue app does not build:\n{done.stdout}{done.stderr}", pytrace=False)
            stamp.touch()
    return APP


def _fingerprint() -> str:
    """Of all that the server is built from."""
    sources = hashlib.sha256()
    for path in sorted([APP / "package-lock.json", *APP.glob("src/**/*.ts")]):
        sources.update(path.read_bytes())
    return sources.hexdigest()[:16]


async def invoke(server: FlueServer, workflow: str, **input: Any) -> str:
    """Starts a run; its id."""
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        response = await http.post(f"{server.url}/workflows/{workflow}", json=input)
    assert response.status_code == 202, response.text
    run: str = response.json()["runId"]
    return run


def follow(url: str, run: str, how: str, token: str | None = None) -> Any:
    """A front end that follows the run at this server: `Script` of app/follow.mjs."""
    asked = {"url": url, "run": run, "how": how} | ({} if token is None else {"token": token})
    return Script.start(built() / "follow.mjs", json.dumps(asked))


def items(lines: list[Any]) -> list[Any]:
    return [line["item"] for line in lines if "item" in line]


async def ended(url: str, run: str) -> list[Any]:
    """Waits until the run has ended, by asking the server for its record; all its events."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        async with asyncio.timeout(120):
            while (await http.get(f"/runs/{run}?meta")).json()["status"] == "active":  # noqa: ASYNC110  it is asked
                await asyncio.sleep(0.1)
        events: list[Any] = (await http.get(f"/runs/{run}?offset=-1")).json()
        return events
