"""A rolling deploy of three Machines while fifty conversations go on: no tool is broken, and every message is taken."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path

import httpx

from tests.owner.scene import House, scene

CONVERSATIONS = 50
ENV = {"GATEWAY_OWNED_BUSY": "busy"}


async def talk(houses: list[House], name: str, number: int, over: asyncio.Event) -> int:
    """Says one thing after the other, each at another Machine of those that take requests; each starts a tool. Returns
    how many were taken.
    """
    for said in count():
        if over.is_set():
            return said
        house = houses[(number + said) % len(houses)]
        try:
            async with httpx.AsyncClient(base_url=house.gateway.url, timeout=60) as http:
                answer = await http.post(f"/chat/{name}", json={"text": f"{said}", "seconds": 1.5 if number % 5 else 0})
        except httpx.ConnectError:
            continue  # as a balancer does: its port is closed
        assert answer.status_code == 202, answer.text
        await asyncio.sleep(2.5)
    raise AssertionError("unreachable")


async def test_a_rolling_deploy_breaks_no_tool(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        houses = [await those.house(ENV) for _ in range(3)]
        old = list(houses)
        over = asyncio.Event()
        talks = [asyncio.ensure_future(talk(houses, f"r{n}", n, over)) for n in range(CONVERSATIONS)]
        try:
            for house in old:
                houses.append(await those.house(ENV))
                houses.remove(house)  # the balancer
                assert await house.gateway.terminate() == 0
                await house.app.kill()  # which outlives its gateway, and ends then
        finally:
            over.set()
        taken = sum(await asyncio.gather(*talks))
        written = [line for line in those.writes() if line["what"] == "written"]
        assert len(written) == taken  # each message once
        tools = [line["what"] for line in those.writes() if line["pid"] in {house.pid for house in old}]
        assert tools.count("tool begun") == tools.count("tool done") > 0
        assert all("0 were still busy" in house.gateway.log for house in old)
