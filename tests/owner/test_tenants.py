"""Where AUTH is asked, each tenant's conversations are its own, and who is refused reaches nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.log import shared_secrets
from gateway.log.database import Database
from gateway.owner.order import HEADER, Order, key_of, sign
from tests.auth.people import SECRET, as_jwt, secret
from tests.databases import Postgres, folder
from tests.owner.scene import Scene, scene
from tests.owner.test_owner import new

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = ("ada@one:read,write", "bob@two:read,write", "eve@two:read")
ENV = {
    "AUTH": "keys,jwt",
    "GATEWAY_JWT_SECRET": SECRET,
    "GATEWAY_JWT_TENANT_CLAIM": "tenant",
    "GATEWAY_OWNED_AUTH": "true",
    "GATEWAY_KEYS": " ".join(f"{key}:{secret(key.partition('@')[0])}" for key in KEYS),
}


def of(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret(name)}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def closed(postgres: Postgres) -> AsyncIterator[Scene]:
    """Two houses that ask for keys."""
    with folder() as place:
        async with postgres.database() as url, scene(url, Path(place)) as those:
            for _ in range(2):
                await those.house(ENV)
            yield those


async def owned(those: Scene) -> int:
    one = Database(those.database_url, pool_size=1, statement_timeout=10)
    async with one as database, database.acquire() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM run_gateway.owned")
    return count


async def test_two_tenants_share_no_owner_and_no_session(closed: Scene) -> None:
    a, b = closed.houses
    path = f"/chat/{new()}"
    first = await a.http.post(path, json={"text": "of one"}, headers=of("ada"))
    second = await b.http.post(path, json={"text": "of two"}, headers={**of("bob"), "run-gateway-tenant": "one"})
    assert [answer.json() for answer in (first, second)] == [
        {"pid": a.pid, "messages": 1},
        {"pid": b.pid, "messages": 1},
    ]
    seen = {"ada": (a.pid, "of one"), "bob": (b.pid, "of two"), "eve": (b.pid, "of two")}
    shown = [(of(name), told) for name, told in seen.items()]
    shown.append((as_jwt("read", tenant="one"), seen["ada"]))
    for house in (a, b):
        for credential, (pid, text) in shown:
            session = (await house.http.get(path, headers=credential)).json()
            assert (session["pid"], [each["text"] for each in session["messages"]]) == (pid, [text])


SPOOFS = (
    *({name: "one"} for name in ("run-gateway-tenant", "Run_Gateway_Tenant", "RUN-GATEWAY_TENANT")),
    {"connection": "run-gateway-tenant"},
    {"connection": "Run-Gateway-Tenant", "run-gateway-tenant": "one"},
    {"connection": "run_gateway_tenant, run-gateway-tenant", "run_gateway_tenant": "one"},
)
"""By which a client of one tenant would pass for another's, or for nobody's, before an application behind CGI, too."""


@pytest.mark.parametrize("spoof", SPOOFS, ids=str)
async def test_no_client_says_itself_whose_it_is(closed: Scene, spoof: dict[str, str]) -> None:
    """Of a conversation, here and at another owner; and of what no row takes."""
    for house in closed.houses:
        for path, own in ((f"/chat/{new()}/files", "two"), ("/elsewhere", None)):
            for _ in range(2):
                answer = await house.http.post(path, content=b"x", headers={**spoof, **of("bob")})
                told = {name.replace("_", "-"): value for name, value in answer.json()["headers"].items()}
                assert told.get("run-gateway-tenant") == own, (path, answer.json())


@pytest.mark.parametrize(("name", "status"), [("", 401), ("mallory", 401), ("eve", 403)])
async def test_who_is_refused_takes_and_reaches_nothing(closed: Scene, name: str, status: int) -> None:
    _, b = closed.houses
    before, written = await owned(closed), len(closed.writes())
    answer = await b.http.post(f"/chat/{new()}", json={"text": "x"}, headers=of(name) if name else {})
    assert answer.status_code == status
    if name != "eve":
        assert (await b.http.get(f"/chat/{new()}", headers=of(name) if name else {})).status_code == status
    assert (await owned(closed), len(closed.writes())) == (before, written)


async def test_an_order_lets_nobody_in(closed: Scene) -> None:
    """Copied from another gateway's request: without a credential, and to a request of another tenant."""
    a, _ = closed.houses
    path = f"/chat/{new()}"
    assert (await a.http.post(path, json={"text": "mine"}, headers=of("ada"))).status_code == 202
    async with Database(closed.database_url, pool_size=1, statement_timeout=10) as database:
        keys = key_of((await shared_secrets.read(database))["token"][-1].secret)
        async with database.acquire() as connection:
            row = await connection.fetchrow(
                "SELECT o.life, o.epoch FROM run_gateway.owned o WHERE o.id = $1", path.rpartition("/")[2].encode()
            )
    assert row is not None
    order = {HEADER.decode(): sign(Order(*row), "POST", path.encode(), keys).decode()}
    written = len(closed.writes())
    refused = [await a.http.post(path, json={"text": "x"}, headers={**order, **who}) for who in ({}, of("bob"))]
    assert [answer.status_code for answer in refused] == [401, 421]
    assert len(closed.writes()) == written
    assert (await a.http.post(path, json={"text": "x"}, headers={**order, **of("ada")})).json()["messages"] == 2
