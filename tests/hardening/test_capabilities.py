"""What a narrow credential can reach by a way around: nothing that it was not given."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from gateway.auth.read_tokens import Capability
from tests.servers import PROTOCOLS, Client, Running, client_of, following, payloads, serving

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


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_who_may_not_read_is_handed_no_token(client: Client, id: str) -> None:
    """Neither for a run of their own, nor by repeating what another has asked for."""
    body = {"id": id, "metadata": {"of": "agent"}}
    made = await client("POST", "/runs", headers=as_key("agent"), json=body)
    assert (made.status_code, "token" in made.json()) == (201, True)
    for who in ("writer", "keeper"):
        again = await client("POST", "/runs", headers=as_key(who), json=body)
        assert (again.status_code, "token" in again.json()) == (200, False)
        own = await client("POST", "/runs", headers=as_key(who), json={})
        assert (own.status_code, "token" in own.json()) == (201, False)
        answer = await client("POST", f"/runs/{id}/token", headers=as_key(who), json={})
        assert refused(answer) == (403, "scope_missing")
    own = await client("POST", "/runs", headers=as_key("keeper"), json={"control": True})
    assert "token" not in own.json()


@pytest.mark.parametrize("at", ["/runs/{id}-fork", "/v1/stream/plain-{id}", "/runs/{id}/control"])
async def test_a_fork_takes_read_as_well_as_write(client: Client, id: str, at: str) -> None:
    source, fork = f"/runs/{id}", at.format(id=id)
    await client("PUT", source, headers=ALL | JSON, content=b'["secret"]')
    for spelled in (source, f"/v1/stream{source}", source.replace("runs", "%72uns")):
        for who in ("writer", "keeper", "controller"):
            answer = await client("PUT", fork, headers=as_key(who) | {"stream-forked-from": spelled})
            assert answer.status_code in (403, 409), answer.text
            if answer.status_code == 409:
                assert fork.endswith("/control"), "which is there already, and nobody's fork"
    if not fork.endswith("/control"):
        assert (await client("GET", fork, headers=ALL)).status_code == 404
        answer = await client("PUT", fork, headers=as_key("agent") | {"stream-forked-from": source})
        assert answer.status_code == 201
        answer = await client("PUT", fork, headers=as_key("writer") | {"stream-forked-from": source})
        assert refused(answer) == (403, "scope_missing"), "nor to confirm one"


async def remake(client: Client, id: str, how: str) -> None:
    """Another stream at the run's path."""
    if how == "fork":
        await client("PUT", f"/runs/{id}-source", headers=ALL | JSON, content=b'["secret"]')
    deleted = await client("DELETE", f"/runs/{id}", headers=ALL)
    assert deleted.status_code == 204
    forked = {"stream-forked-from": f"/runs/{id}-source"} if how == "fork" else {}
    made = await client("PUT", f"/runs/{id}", headers=ALL | JSON | forked)
    assert made.status_code == 201
    if how == "anew":
        await client("POST", f"/runs/{id}", headers=ALL | JSON, content=b'["secret"]')


@pytest.mark.parametrize("how", ["anew", "fork"])
async def test_a_token_dies_with_its_stream_on_every_route(client: Client, id: str, how: str) -> None:
    made = await client("POST", "/runs", headers=ALL, json={"id": id, "control": True})
    token = made.json()["token"]
    path = f"/runs/{id}"
    routes = [
        ("GET", path),
        ("GET", f"/v1/stream{path}"),
        ("GET", f"{path}?offset=-1"),
        ("GET", f"{path}?offset=-1&tail=1"),
        ("GET", f"{path}?offset=now"),
        ("GET", f"{path}?offset=-1&live=long-poll"),
        ("GET", f"{path}?offset=now&live=long-poll"),
        ("GET", f"{path}?meta"),
        ("GET", f"{path}?meta&wait=0.1"),
        ("GET", f"{path}/control"),
        ("GET", f"{path}/control?offset=-1&live=long-poll"),
        ("HEAD", path),
        ("HEAD", f"{path}/control"),
        ("POST", f"{path}/control"),
        ("POST", f"{path}/cancel"),
    ]

    async def ask(method: str, target: str) -> Any:
        options: dict[str, Any] = {"content": b"1"} if target.endswith("control") and method == "POST" else {}
        return await client(method, target, headers=bearer(token) | JSON, **options)

    for method, target in routes:
        assert (await ask(method, target)).is_success, (method, target)
    await remake(client, id, how)
    for _ in range(2):
        for method, target in [
            *routes,
            ("GET", f"{path}?offset=-1&live=sse"),
            ("GET", f"{path}/control?offset=-1&live=sse"),
        ]:
            answer = await ask(method, target)
            assert answer.status_code == 403, (method, target)
            assert b"secret" not in answer.content
            assert method == "HEAD" or refused(answer) == (403, "wrong_stream")
    assert (await client("GET", f"{path}/control", headers=ALL)).json() == [], "nothing was written there"
    assert "cancelRequestedAt" not in (await client("GET", f"{path}?meta", headers=ALL)).json()
    again = (await client("POST", f"{path}/token", headers=ALL, json={})).json()["token"]
    assert (await client("GET", path, headers=bearer(again))).json() == ["secret"]


async def test_a_token_opens_nothing_made_after_its_run_expired(client: Client, id: str) -> None:
    """What a narrow key could do with a run of its own: let it expire, and have another's events come in its place."""
    made = await client("POST", "/runs", headers=as_key("agent"), json={"id": id, "ttl": 0})
    token, path = made.json()["token"], f"/runs/{id}"
    assert (await client("GET", path, headers=bearer(token))).status_code == 404
    await client("PUT", f"{path}-source", headers=ALL | JSON, content=b'["secret"]')
    forked = await client("PUT", path, headers=ALL | {"stream-forked-from": f"{path}-source"})
    assert forked.status_code == 201
    for query in ("", "?offset=-1&live=sse", "?offset=-1&live=long-poll", "?meta&wait=1"):
        assert refused(await client("GET", path + query, headers=bearer(token))) == (403, "wrong_stream")


async def test_a_follower_by_token_sees_nothing_of_the_next_stream(client: Client, id: str) -> None:
    token = (await client("POST", "/runs", headers=ALL, json={"id": id})).json()["token"]
    async with following(client, f"/runs/{id}?offset=-1&live=sse&token={token}") as follow:
        await follow.until(lambda reading: len(reading.events) > 0)
        await remake(client, id, "anew")
        assert payloads(await follow.end()) == []


async def test_a_token_of_the_version_before_is_for_its_path(client: Client, gateway: Running, id: str) -> None:
    """It names no stream, and lives no longer than any other."""
    await client("PUT", f"/runs/{id}", headers=ALL | JSON, content=b"[1]")
    capability = Capability("", f"runs/{id}", True, int(time.time()) + 60)
    signed = await gateway.app._auth._tokens.sign(capability)
    for target in ("", "?meta", "/control", "?offset=-1&live=long-poll"):
        assert (await client("GET", f"/runs/{id}{target}", headers=bearer(signed))).status_code == 200
    assert (await client("POST", f"/runs/{id}/cancel", headers=bearer(signed))).status_code == 202
