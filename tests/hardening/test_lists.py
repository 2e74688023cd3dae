"""Lists that find nothing, or not soon: they wait for each other, and nobody else waits for them."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx

from tests.log.rig import connected
from tests.servers import PATIENCE, serving, until

JSON = {"content-type": "application/json"}
KEYS = " ".join(f"{name}:read,write:{name[0] * 40}" for name in ("ada@acme", "bob@globex"))
ADA, BOB = ({"authorization": "Bearer " + letter * 40} for letter in "ab")
NOTHING = "/runs?metadata.user=nobody"


async def test_a_stampede_of_lists_takes_only_its_share_of_the_pool(database_url: str) -> None:
    """Every list is held up, by a table that somebody else has locked: reads and appends go on as before."""
    run = f"/runs/{uuid4().hex}"
    settings: dict[str, Any] = {
        "auth": "keys",
        "keys": KEYS,
        "max_lists": 2,
        "list_timeout": 60,
        "statement_timeout": 120,
    }
    with serving(database_url, "direct", **settings) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http, connected(database_url) as holder:
            assert (await http.put(run, headers=JSON | BOB, content=b"[1]")).status_code == 201
            lists = gateway.app._lists
            async with holder.transaction():
                await holder.execute("LOCK TABLE run_gateway.runs IN ACCESS EXCLUSIVE MODE")
                asked = [asyncio.create_task(http.get(NOTHING, headers=ADA)) for _ in range(24)]
                await until(lambda: lists.under_way == 2 and lists._asked["acme"] == 8)
                refused = await http.get(NOTHING, headers=ADA)
                assert (refused.status_code, refused.json()["error"]["type"]) == (503, "too_many_lists")
                assert 1 <= int(refused.headers["retry-after"]) <= 3
                for number in range(20):
                    assert (await http.get(run, headers=BOB)).status_code == 200
                    assert (await http.post(run, headers=JSON | BOB, content=b"%d" % number)).status_code == 204
                    assert lists.under_way == 2, "two connections of the pool, and no third"
                bobs = asyncio.create_task(http.get(NOTHING, headers=BOB))
                await until(lambda: lists._asked["globex"] == 1)  # another tenant's may wait for its turn
            answers = await asyncio.gather(*asked)
            assert sorted({answer.status_code for answer in answers}) == [200, 503]
            assert sum(answer.status_code == 200 for answer in answers) == 8, "those that were let wait"
            assert (await bobs).json()["runs"] == []
            assert not lists.under_way and not lists._asked, "nothing is left behind"


async def test_lists_go_round_by_tenant(database_url: str) -> None:
    """Who asks for many waits for their own: another tenant's list is the next but one."""
    settings: dict[str, Any] = {"auth": "keys", "keys": KEYS, "max_lists": 1, "list_timeout": 60}
    done = list[str]()
    with serving(database_url, "direct", statement_timeout=120, **settings) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http, connected(database_url) as holder:
            lists = gateway.app._lists
            take = lists.work._turns.take

            async def taken(tenant: str) -> None:
                await take(tenant)
                done.append(tenant)

            lists.work._turns.take = taken  # type: ignore[method-assign]
            async with holder.transaction():
                await holder.execute("LOCK TABLE run_gateway.runs IN ACCESS EXCLUSIVE MODE")
                asked = [asyncio.create_task(http.get(NOTHING, headers=ADA)) for _ in range(8)]
                await until(lambda: lists._asked["acme"] == 8)
                asked.append(asyncio.create_task(http.get(NOTHING, headers=BOB)))
                await until(lambda: lists._asked["globex"] == 1)
            assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
    assert done.index("globex") <= 2
    assert len(done) == 9


async def test_a_slow_list_is_ended_and_its_connection_reused(database_url: str) -> None:
    settings: dict[str, Any] = {"auth": "keys", "keys": KEYS, "list_timeout": 0.2}
    with serving(database_url, "direct", **settings) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http, connected(database_url) as holder:
            assert (await http.get(NOTHING, headers=ADA)).status_code == 200
            async with holder.transaction():
                await holder.execute("LOCK TABLE run_gateway.runs IN ACCESS EXCLUSIVE MODE")
                pids = await holder.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'run-gateway'")
                for _ in range(3):
                    answer = await http.get(NOTHING, headers=ADA)
                    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "list_too_slow")
                    assert 1 <= int(answer.headers["retry-after"]) <= 3
            assert (await http.get(NOTHING, headers=ADA)).json() == {"runs": []}
            after = await holder.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'run-gateway'")
            assert {row["pid"] for row in pids} <= {row["pid"] for row in after}


async def test_a_client_that_goes_gives_its_place_back(database_url: str) -> None:
    settings: dict[str, Any] = {
        "auth": "keys",
        "keys": KEYS,
        "max_lists": 1,
        "list_timeout": 60,
        "statement_timeout": 120,
    }
    with serving(database_url, "direct", **settings) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE) as http, connected(database_url) as holder:
            lists = gateway.app._lists
            async with holder.transaction():
                await holder.execute("LOCK TABLE run_gateway.runs IN ACCESS EXCLUSIVE MODE")
                asked = [asyncio.create_task(http.get(NOTHING, headers=ADA)) for _ in range(8)]
                await until(lambda: lists._asked["acme"] == 8)
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
            await until(lambda: not lists._asked)
            assert (await http.get(NOTHING, headers=ADA)).status_code == 200
