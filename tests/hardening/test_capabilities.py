"""What a narrow credential can reach by a way around: nothing that it was not given."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from tests.databases import Postgres
from tests.servers import PROTOCOLS, Client, Running, client_of, serving

JSON = {"content-type": "application/json"}
SCOPES = {
    "reader": "read",
    "writer": "write",
    "controller": "control",
    "agent": "read,write",
    "keeper": "write,control",
    "all": "read,write,control,admin",
    "all@acme": "read,write,control,admin",
}


def as_key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer secret-of-{name.replace('@', '-at-')}-key"}


KEYS = " ".join(f"{name}:{scopes}:{as_key(name)['authorization'][7:]}" for name, scopes in SCOPES.items())
ALL = as_key("all")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def database_of_all(postgres: Postgres) -> AsyncIterator[str]:
    async with postgres.database() as url:
        yield url


@pytest.fixture(scope="module", params=list(PROTOCOLS))
def gateway(request: pytest.FixtureRequest, database_of_all: str) -> Iterator[Running]:
    with serving(database_of_all, request.param, long_poll_timeout=0.5, auth="keys", keys=KEYS) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[Client]:
    async with client_of(gateway) as client:
        yield client


@pytest.fixture
def id() -> str:
    return uuid4().hex


def refused(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["type"]


@pytest.mark.parametrize("spelled", ["runs/{id}", "/runs/{id}", "runs/{id}/", "//runs/{id}//"])
async def test_control_alone_writes_into_no_run_by_a_wake(client: Client, id: str, spelled: str) -> None:
    await client("PUT", f"/runs/{id}", headers=ALL | JSON)
    url = f"/v1/stream/__ds/subscriptions/{id}"
    wanted = {"type": "pull-wake", "pattern": f"orders-{id}/*", "wake_stream": spelled.format(id=id)}
    answer = await client("PUT", url, headers=as_key("controller"), json=wanted)
    assert refused(answer) == (403, "scope_missing")
    assert (await client("GET", url, headers=ALL)).status_code == 404, "nothing was made"
    assert (await client("PUT", url, headers=as_key("keeper"), json=wanted)).status_code == 201
    for other in (f"wakes-{id}", f"runs/{id}/control"):
        wanted = {"type": "pull-wake", "pattern": f"orders-{id}/*", "wake_stream": other}
        answer = await client("PUT", f"{url}-{len(other)}", headers=as_key("controller"), json=wanted)
        assert answer.status_code == 201, other


async def test_a_subscription_names_no_stream_of_another_tenant(client: Client, id: str) -> None:
    url = f"/v1/stream/__ds/subscriptions/{id}"
    for field, value in (("wake_stream", f"acme\x1fruns/{id}"), ("streams", [f"acme\x1fruns/{id}"])):
        wanted = {"type": "pull-wake", "pattern": "a/*", "wake_stream": "w", field: value}
        answer = await client("PUT", url, headers=ALL, json=wanted)
        assert refused(answer) == (400, "invalid_request")
