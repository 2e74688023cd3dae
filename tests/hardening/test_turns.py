"""A tenant that reads very much waits for itself: another tenant's read is the next but one."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import httpx
import pytest

from tests.log.rig import connected
from tests.servers import PATIENCE, serving, until

JSON = {"content-type": "application/json"}
KEYS = " ".join(f"{name}:read,write:{name[0] * 40}" for name in ("ada@acme", "bob@globex"))
CONTROL_KEYS = KEYS.replace("read,write", "read,write,control,admin")
ADA, BOB = ({"authorization": "Bearer " + letter * 40} for letter in "ab")
MANY = 40


@pytest.mark.parametrize("how", ["GET ?offset=now", "GET ?offset=now&live=long-poll", "HEAD "])
async def test_reads_go_round_by_tenant(database_url: str, how: str) -> None:
    method, query = how.split(" ")
    run, done = f"/runs/{uuid4().hex}", list[str]()
    with serving(
        database_url, "direct", auth="keys", keys=KEYS, max_reads=1, statement_timeout=120, long_poll_timeout=1
    ) as gateway:
        limits = httpx.Limits(max_connections=2 * MANY)
        async with (
            httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, limits=limits) as http,
            connected(database_url) as holder,
        ):
            for who in (ADA, BOB):
                for number in range(MANY):
                    assert (await http.put(f"{run}-{number}", headers=JSON | who)).status_code == 201
            turns = gateway.app._log.reader._turns
            take = turns.take

            async def taken(tenant: str) -> None:
                await take(tenant)
                done.append(tenant)

            turns.take = taken  # type: ignore[method-assign]

            async def read(who: dict[str, str], number: int) -> None:
                answer = await http.request(method, f"{run}-{number}{query}", headers=who)
                assert answer.status_code in (200, 204)

            async with holder.transaction():
                await holder.execute("LOCK TABLE run_gateway.streams IN ACCESS EXCLUSIVE MODE")
                asked = [asyncio.create_task(read(ADA, number)) for number in range(MANY)]
                await until(lambda: turns.waiting == MANY - 1)
                asked.append(asyncio.create_task(read(BOB, 0)))
                await until(lambda: turns.waiting == MANY)
            await asyncio.gather(*asked)
    assert done.index("globex") <= 2
    assert done.count("acme") >= MANY


WATCHED = b'{"type":"pull-wake","pattern":"{id}","wake_stream":"w"}'
OTHER_WORK = {
    "a stream is made": ("PUT", "{run}", b""),
    "a stream is deleted": ("DELETE", "{run}", b""),
    "a run is made": ("POST", "/runs", b'{"id":"{id}-made"}'),
    "a record is read": ("GET", "{run}?meta", b""),
    "a run is cancelled": ("POST", "{run}/cancel", b""),
    "a subscription is made": ("PUT", "/v1/stream/__ds/subscriptions/{id}", WATCHED),
}


@pytest.mark.parametrize("what", OTHER_WORK)
async def test_what_waits_for_the_pool_goes_round_by_tenant(database_url: str, what: str) -> None:
    method, place, body = OTHER_WORK[what]
    few, name, done = 10, uuid4().hex, list[str]()
    with serving(database_url, "direct", auth="keys", keys=CONTROL_KEYS, pool_size=1, statement_timeout=120) as gateway:
        limits = httpx.Limits(max_connections=2 * few)
        async with (
            httpx.AsyncClient(base_url=gateway.url, timeout=PATIENCE, limits=limits) as http,
            connected(database_url) as holder,
        ):
            for who in (ADA, BOB):
                assert (await http.put("/v1/stream/w", headers=JSON | who)).status_code == 201
                for number in range(few):
                    run = {"id": f"{name}-{number}"}
                    assert (await http.post("/runs", json=run, headers=who)).status_code == 201
            turns = gateway.app._database._turns
            take = turns.take

            async def taken(tenant: str) -> None:
                await take(tenant)
                done.append(tenant)

            turns.take = taken  # type: ignore[method-assign]

            async def ask(who: dict[str, str], number: int) -> None:
                id = f"{name}-{number}"
                path = place.replace("{run}", f"/runs/{id}").replace("{id}", id)
                content = body.replace(b"{id}", id.encode())
                answer = await http.request(method, path, content=content, headers=JSON | who)
                assert answer.is_success, answer.text

            async with holder.transaction():
                await holder.execute("LOCK TABLE run_gateway.streams IN ACCESS EXCLUSIVE MODE")
                asked = [asyncio.create_task(ask(ADA, number)) for number in range(few)]
                await until(lambda: turns.waiting == few - 1)
                asked.append(asyncio.create_task(ask(BOB, 0)))
                await until(lambda: turns.waiting == few)
            await asyncio.gather(*asked)
    assert done.index("globex") <= 2
    assert done.count("acme") >= few
