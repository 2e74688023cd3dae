"""What goes from one gateway to another: everything as the client sent it, once, and for nobody but the owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.log import shared_secrets
from gateway.log.database import Database
from gateway.owner.order import HEADER, Order, key_of, sign
from tests.owner.scene import House, Scene, scene, until
from tests.owner.test_owner import new
from tests.tools.proxy import Proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

LARGE = b"x" * (14 << 20)


async def test_an_upload_of_14_mb_reaches_the_owner(houses: Scene) -> None:
    a, b = houses.houses
    name = new()
    await a.say(name)
    answer = await b.http.post(f"/chat/{name}/files", content=LARGE)
    assert (answer.status_code, answer.json()["size"], answer.json()["pid"]) == (201, len(LARGE), a.pid)
    assert (await b.http.post(f"/chat/{name}/files", content=pieces())).json()["size"] == 3 << 20


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"y" * (1 << 20)


async def test_an_owner_gets_a_request_as_its_client_sent_it(houses: Scene) -> None:
    a, b = houses.houses
    name = new()
    await a.say(name)
    sent = {"host": "chat.example", "x-mine": "1", "authorization": "Bearer t", "x-forwarded-for": "9.9.9.9"}
    got = []
    for house in (a, b):
        answer = await house.http.post(f"/chat/{name}/files", content=b"x", headers=sent)
        got.append(answer.json()["headers"])
    assert got[0] == got[1]
    assert {"host": "chat.example", "x-mine": "1", "authorization": "Bearer t"}.items() <= got[0].items()
    assert got[0]["x-forwarded-for"].endswith("127.0.0.1")


async def test_events_of_the_owner_come_through_another(houses: Scene) -> None:
    a, b = houses.houses
    name = new()
    await a.say(name, "one")
    async with b.http.stream("GET", f"/chat/{name}/events") as answer:
        lines = answer.aiter_lines()
        assert "one" in await anext(lines)
        await b.say(name, "two")
        await anext(lines)
        assert "two" in await anext(lines)


async def test_the_header_between_gateways_is_worth_nothing_elsewhere(houses: Scene) -> None:
    """A client's own, and one for another conversation, another life, or what somebody else owns."""
    a, b = houses.houses
    mine, others = new(), new()
    await a.say(mine)
    await b.say(others)
    async with Database(houses.database_url, pool_size=1, statement_timeout=10) as database:
        secret = (await shared_secrets.read(database))["token"][0].secret
        async with database.acquire() as connection:
            rows = await connection.fetch("SELECT address, life FROM run_gateway.owner_lives WHERE ended_at IS NULL")
    life = {row["address"]: row["life"] for row in rows}[a.gateway.url]
    written = len(houses.writes())

    async def ask(name: str, order: Order, target: str | None = None) -> httpx.Response:
        value = sign(order, "POST", (target or f"/chat/{name}/files").encode(), key_of(secret)).decode()
        return await a.http.post(f"/chat/{name}/files", content=b"x", headers={HEADER.decode(): value})

    for order, name in ((Order(life, 1), others), (Order(life + 1, 1), mine), (Order(life, 0), others)):
        refused = await ask(name, order)
        assert (refused.status_code, refused.json()["error"]["type"]) == (421, "not_owner")
    assert len(houses.writes()) == written
    right = await ask(mine, Order(life, 1))
    assert (right.status_code, right.json()["pid"]) == (201, a.pid)
    forged = await ask(others, Order(life, 1), target="/chat/other/files")
    assert forged.json()["pid"] == b.pid  # as any client's: sent on to the owner
    assert HEADER.decode() not in forged.json()["headers"]


async def test_limits_are_counted_where_a_request_comes_in(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        env = {"GATEWAY_MAX_REQUESTS_PER_ADDRESS": "2"}
        a, b = await those.house(env), await those.house(env)
        await a.say("limited")
        async with (
            b.http.stream("GET", "/chat/limited/events") as one,
            b.http.stream("GET", "/chat/limited/events") as two,
            a.http.stream("GET", "/chat/limited/events") as three,
        ):
            assert [answer.status_code for answer in (one, two, three)] == [200] * 3
            pieces = [answer.aiter_raw() for answer in (one, two, three)]  # kept, or they are closed
            await asyncio.gather(*(anext(each) for each in pieces))
            assert (await b.http.get("/chat/limited")).status_code == 429
            assert await a.owner("limited") == a.pid


async def test_fly_takes_small_requests_to_the_owner(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        a, b = await those.house({"FLY_MACHINE_ID": "aaa"}), await those.house({"FLY_MACHINE_ID": "bbb"})
        await a.say("flown")
        by_fly = {"fly-request-id": "1"}
        for answer in (
            await b.http.post("/chat/flown", json={"text": "x"}, headers=by_fly),
            await b.http.get("/chat/flown", headers=by_fly),
        ):
            assert (answer.status_code, answer.headers["fly-replay"]) == (503, "instance=aaa")
        relayed = [
            await b.http.post("/chat/flown", json={"text": "x"}, headers=by_fly | {"fly-replay-src": "instance=ccc"}),
            await b.http.post("/chat/flown/files", content=LARGE, headers=by_fly),
            await b.http.post("/chat/flown", json={"text": "x"}),
        ]
        assert {answer.json()["pid"] for answer in relayed} == {a.pid}


async def test_fly_takes_no_reader_whose_answer_is_learnt_from(database_url: str, tmp_path: Path) -> None:
    async with scene(database_url, tmp_path) as those:
        reads = {"FLY_MACHINE_ID": "bbb", "GATEWAY_FLUE_AGENTS": "/chat", "GATEWAY_FLUE_READERS": "2.1.0"}
        a, b = await those.house({"FLY_MACHINE_ID": "aaa"}), await those.house(reads)
        await a.say("flown")
        answers = [
            await b.http.get(path, headers={"fly-request-id": "1"}) for path in ("/chat/flown", "/chat/flown/events")
        ]
        assert (answers[0].json()["pid"], answers[1].headers["fly-replay"]) == (a.pid, "instance=aaa")


async def test_an_owner_that_another_cannot_reach_stays_the_owner(database_url: str, tmp_path: Path) -> None:
    """Gateways are cut off from each other, and none from the database: nobody takes over."""
    async with scene(database_url, tmp_path) as those, Proxy("http://127.0.0.1:1") as proxy:
        a, b = await those.house({"GATEWAY_ADVERTISE": proxy.url}), await those.house()
        proxy.target = a.gateway.url
        await a.say("apart")
        assert await b.owner("apart") == a.pid
        with proxy.refusing():
            proxy.cut()
            lost = await b.say("apart", "while they are cut off")  # on a connection that is reset: it may have arrived
            assert (lost.status_code, lost.json()["error"]["type"]) == (502, "owner_lost")
            read = asyncio.ensure_future(b.http.get("/chat/apart"))
            assert (await a.say("apart")).json()["pid"] == a.pid
            await waits(b, 3)
        assert (await read).json()["pid"] == a.pid
        assert (await b.say("apart")).json()["pid"] == a.pid
        assert {line["pid"] for line in those.writes("apart")} == {a.pid}


async def waits(house: House, times: int) -> None:
    """Returns when requests have waited so often for news of their owner."""

    async def often() -> bool:
        return await house.metric("owner_waits") >= times

    await until(often)
