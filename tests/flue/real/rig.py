"""A real Flue app, and what its users do: invoke, and follow."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx

from tests.node import Script
from tests.tools import flue_app
from tests.tools.flue_server import FlueServer

APP = Path(__file__).parent / "app"


def built() -> Path:
    """The app's folder, with its packages and its server. Skips the test where they cannot be had."""
    return flue_app.built(APP, "node_modules/.bin/flue", "build", "--target", "node")


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
