"""The README's browser example, word for word: it follows a run with a token, and goes on when that has expired."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.databases import Postgres
from tests.machines import Machine
from tests.manual import manual
from tests.node import Script, npm_ci

HERE = Path(__file__).parent
KEY = "a-key-of-sixteen-letters"


@pytest.fixture(autouse=True, scope="module")
def packages() -> None:
    npm_ci(HERE)


def example() -> str:
    code: str = next(code for code in re.findall(r"```js\n(.*?)```", manual("auth"), re.DOTALL) if "token=" in code)
    return code


def shown(lines: list[Any]) -> list[Any]:
    return [event for line in lines for event in line.get("shown", [])]


async def test_the_example_follows_a_run_past_the_end_of_its_token(postgres: Postgres) -> None:
    env = {"AUTH": "keys", "GATEWAY_KEYS": f"agent:read,write:{KEY}", "GATEWAY_SSE_MAX_AGE": "1"}
    async with (
        postgres.database() as url,
        Machine.start(url, env=env) as machine,
        httpx.AsyncClient(base_url=machine.url, headers={"authorization": f"Bearer {KEY}"}) as http,
    ):
        coordinates = (await http.post("/runs", json={"id": "1"})).json()
        coordinates["token"] = (await http.post("/runs/1/token", json={"ttl": 2})).json()["token"]
        await http.post("/runs/1", json=[1])
        given = {"code": example(), "coordinates": coordinates, "mint": f"{machine.url}/runs/1/token", "key": KEY}
        async with Script.start(HERE / "readme.mjs", json.dumps(given)) as page:
            await page.until(lambda lines: shown(lines) == [1])
            await page.until(lambda lines: {"minted": 1} in lines)
            await http.post("/runs/1", json=[2, 3])
            await http.post("/runs/1", headers={"stream-closed": "true"})
            assert shown(await page.end()) == [1, 2, 3]
        assert len(example().strip().splitlines()) <= 12
