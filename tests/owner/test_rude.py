"""What rude clients, and gateways of other settings, cannot get past the owner."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from gateway.log import shared_secrets
from gateway.log.database import Database
from gateway.owner.order import HEADER, Order, key_of, sign
from tests.owner.scene import Scene, scene
from tests.owner.test_owner import new

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_no_client_takes_the_order_off_a_request(houses: Scene) -> None:
    a, b = houses.houses
    name = new()
    await a.say(name)
    answer = await b.http.post(f"/chat/{name}/files", content=b"x", headers={"connection": "Run-Gateway-Owner"})
    assert answer.json()["pid"] == a.pid
    assert answer.json()["headers"]["x-forwarded-for"] == "127.0.0.1"  # and not B's as well: it came with an order


async def test_an_order_for_what_no_row_takes_is_refused(houses: Scene) -> None:
    """As of a gateway that has more rows than this one."""
    a, _ = houses.houses
    async with Database(houses.database_url, pool_size=1, statement_timeout=10) as database:
        secret = (await shared_secrets.read(database))["token"][-1].secret
    value = sign(Order(1, 0), "POST", b"/other/x", key_of(secret)).decode()
    answer = await a.http.post("/other/x", content=b"x", headers={HEADER.decode(): value})
    assert (answer.status_code, answer.json()["error"]["type"]) == (421, "not_owner")
    assert (await a.http.post("/other/x", content=b"x")).json()["pid"] == a.pid


async def test_what_its_client_has_given_up_is_not_sent(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        a, b = await those.house(), await those.house()
        await a.say("left")
        assert await b.owner("left") == a.pid
        await a.gateway.kill()
        await a.app.kill()
        async with asyncio.timeout(10):
            with suppress(httpx.ReadTimeout):
                await b.http.post("/chat/left/abort", timeout=0.5)
        answers = [await b.say("left", "again") for _ in range(2)]
        assert [answer.json()["messages"] for answer in answers] == [1, 2]
        reached = [line["what"] for line in those.writes("left") if line["pid"] == b.pid]
        assert reached == ["begun", "written"] * 2  # nothing of what was given up, not even its head
