"""What rude clients, and gateways of other settings, cannot get past the owner."""

from __future__ import annotations

import pytest

from gateway.log import shared_secrets
from gateway.log.database import Database
from gateway.owner.order import HEADER, Order, key_of, sign
from tests.owner.scene import Scene
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
