"""What tests send to streams, and how they read the answers."""

from __future__ import annotations

from typing import Any

import httpx

from tests.servers import Client

JSON = {"Content-Type": "application/json"}
START = "0000000000000000_0000000000000000"


def at(position: int) -> str:
    return f"0000000000000000_{position:016}"


def refusal(response: httpx.Response) -> tuple[int, str]:
    """Status and type, once the body has been seen to have the one shape of refusals."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"type", "message", "details"}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    return response.status_code, body["error"]["type"]


async def content(client: Client, path: str) -> Any:
    return (await client("GET", path)).json()
