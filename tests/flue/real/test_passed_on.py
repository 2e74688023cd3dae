"""The Flue app's whole API through the gateway behaves as without it."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from tests.flue.real.house import House

pytestmark = pytest.mark.asyncio(loop_scope="package")
LARGE = 14 << 20


async def both(house: House, method: str, path: str, **options: object) -> tuple[httpx.Response, httpx.Response]:
    """The same request to Flue A and, through gateway B, to Flue A."""
    async with httpx.AsyncClient(timeout=90, trust_env=False) as http:
        answers = [await http.request(method, url + path, **options) for url in (house.flue_a.url, house.b.url)]  # type: ignore[arg-type]
    return answers[0], answers[1]


async def test_a_workflow_is_started_and_its_result_waited_for(house: House) -> None:
    straight, through = await both(house, "POST", "/workflows/ticker?wait=result", json={"n": 3, "intervalMs": 800})
    assert (through.status_code, through.json()["result"]) == (200, straight.json()["result"])
    async with httpx.AsyncClient(base_url=house.b.url, timeout=20, trust_env=False) as http:
        started = await http.post("/workflows/ticker", json={"n": 1, "intervalMs": 1})
        assert started.status_code == 202
        assert (await http.get(f"/runs/{started.json()['runId']}?meta")).json()["workflowName"] == "ticker"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/workflows/ticker?wait=nonsense"),
        ("POST", "/workflows/nobodys"),
        ("GET", "/workflows/ticker"),
        ("DELETE", "/workflows/ticker"),
        ("GET", "/agents/nobody/1"),
        ("GET", "/"),
        ("GET", "/nothing/here?x=%20&x=2"),
        ("OPTIONS", "/workflows/ticker"),
        ("HEAD", "/workflows/ticker"),
    ],
)
async def test_answers_of_every_kind_come_as_they_are(house: House, method: str, path: str) -> None:
    straight, through = await both(house, method, path)
    of_the_connection = ("date", "connection", "keep-alive", "transfer-encoding", "content-length")
    left, right = [
        (answer.status_code, [h for h in answer.headers.multi_items() if h[0] not in of_the_connection], answer.content)
        for answer in (straight, through)
    ]
    assert left == right


async def test_a_body_of_14_mib_is_judged_by_the_app(house: House) -> None:
    body = json.dumps({"n": 1, "intervalMs": 1, "filler": "x" * LARGE}).encode()
    headers = {"content-type": "application/json"}
    straight, through = await both(house, "POST", "/workflows/ticker?wait=result", content=body, headers=headers)
    assert through.status_code == straight.status_code
    if straight.status_code != 200:
        assert through.json() == straight.json()


async def test_a_result_may_take_longer_than_a_proxys_patience(house: House) -> None:
    async with httpx.AsyncClient(base_url=house.b.url, timeout=60, trust_env=False) as http:
        waiting = asyncio.create_task(http.post("/workflows/ticker?wait=result", json={"n": 8, "intervalMs": 1000}))
        assert (await http.get("/health")).status_code == 200
        assert (await waiting).json()["result"]["ticks"] == 8
