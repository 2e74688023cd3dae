"""Flue's whole API through the gateway in front of it behaves as without it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.flue.real.differ import Request, ask
from tests.flue.real.house import SETTINGS, House
from tests.flue.real.rig import ended, follow, items
from tests.machines import Machine

pytestmark = pytest.mark.asyncio(loop_scope="package")
TOKEN: Final = "a-token-of-the-front-end-0123456789abcdef"
LARGE: Final = 14 << 20
LONG_RUN: Final = float(os.environ.get("LONG_RUN", "3"))  # seconds; by hand also a minute and more


@pytest_asyncio.fixture(params=["through the gateway", "without it"], loop_scope="package")
async def http(request: pytest.FixtureRequest, house: House) -> AsyncIterator[httpx.AsyncClient]:
    url = house.a.url if request.param == "through the gateway" else house.flue_a.url
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:
        yield http


async def test_with_keys_the_app_guards_routes_and_the_gateway_runs(house: House) -> None:
    """The SDK sends its one token to both."""
    keys = {"AUTH": "keys", "GATEWAY_KEYS": f"front:read:{TOKEN}", "GATEWAY_UPSTREAM": house.flue_a.url}
    async with Machine.start(house.database_url, env=SETTINGS | keys) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60, trust_env=False) as http:
            invoked = await http.post("/workflows/ticker", json={"n": 3, "intervalMs": 50})
            assert invoked.status_code == 202, "it is the app's route, and the app asks for nothing"
            run = invoked.json()["runId"]
            for query in ("", "?meta", "?offset=-1&live=sse"):
                assert (await http.get(f"/runs/{run}{query}")).status_code == 401
        for how in ("stream", "sse", "events"):
            async with follow(gateway.url, run, how, TOKEN) as script:
                assert items(await script.end()) == await ended(house.flue_a.url, run)


async def test_a_workflow_is_invoked(http: httpx.AsyncClient) -> None:
    answer = await http.post("/workflows/ticker", json={"n": 1, "intervalMs": 1})
    assert (answer.status_code, list(answer.json())) == (202, ["runId"])


async def test_who_waits_for_the_result_gets_it_however_long_the_run(http: httpx.AsyncClient) -> None:
    answer = await http.post(
        "/workflows/ticker?wait=result", json={"n": 2, "intervalMs": LONG_RUN * 500}, timeout=LONG_RUN + 60
    )
    assert answer.status_code == 200
    assert (answer.json()["result"]["ok"], answer.json()["result"]["ticks"]) == (True, 2)


async def test_a_large_input_arrives(http: httpx.AsyncClient) -> None:
    text = "é" * (LARGE // 2)
    body = json.dumps({"n": 1, "intervalMs": 1, "text": text}, ensure_ascii=False).encode()
    answer = await http.post(
        "/workflows/ticker?wait=result", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
    record = (await http.get(f"/runs/{answer.json()['runId']}?meta")).json()
    assert record["status"] == "completed"
    assert record["input"]["text"] == text


async def test_an_agents_own_stream_comes_as_it_is_written(http: httpx.AsyncClient) -> None:
    agent = f"/agents/parrot/{uuid4().hex}"
    sent = await http.post(agent, json={"message": "say it"})
    assert sent.status_code in (200, 202), sent.text
    read: list[Any] = []
    pieces = 0
    async with asyncio.timeout(60), http.stream("GET", f"{agent}?view=updates&offset=-1&live=sse") as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        async for line in stream.aiter_lines():
            pieces += line == "event: data"
            if line.startswith("data:["):
                read += json.loads(line[5:])
            if any(item["type"] == "submission-settled" for item in read):
                break
    assert pieces > 1, "it came in one piece, when all was over"
    history = (await http.get(agent)).json()
    assert "Pieces of eight" in json.dumps(history["messages"])
    head = await http.head(agent)
    assert (head.status_code, head.headers["stream-next-offset"]) == (200, history["offset"])


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/workflows/ticker?wait=nonsense"),
        ("POST", "/workflows/nobodys"),
        ("GET", "/workflows/ticker"),
        ("DELETE", "/workflows/ticker"),
        ("HEAD", "/workflows/ticker"),
        ("OPTIONS", "/workflows/ticker"),
        ("GET", "/agents/nobody/1"),
        ("GET", "/agents/parrot/nobody?view=updates&offset=-1"),
        ("PATCH", "/agents/parrot/1"),
        ("GET", "/"),
        ("GET", "/nothing/here?x=%20&x=2"),
    ],
)
async def test_answers_of_every_kind_come_as_they_are(house: House, method: str, target: str) -> None:
    asked = Request(method, target, ("Content-Type: application/json",), b"{" if method == "POST" else b"")
    assert await ask(house.a.url, asked) == await ask(house.flue_a.url, asked)
