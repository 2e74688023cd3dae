"""The control APIs over HTTP, on an application that has nothing else."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from gateway.auth.gate import let_in
from gateway.auth.principal import ANONYMOUS, Principal
from gateway.http.openapi.refusals import render_refusals
from gateway.log.database import Database
from gateway.protocol.errors import Unavailable
from gateway.subscriptions import Subscriptions
from gateway.subscriptions.http import MAX_BODY
from tests.subscriptions.tools import Receiver, Streams, eventually, idle

BASE = "http://gateway.example"
ROOT = "/v1/stream/__ds"
PULL = {"type": "pull-wake", "pattern": "runs/*", "wake_stream": "wake"}
START = "0000000000000000_0000000000000000"
FIRST = "0000000000000000_0000000000000001"


def application(subscriptions: Subscriptions, principal: Principal = ANONYMOUS) -> FastAPI:
    app = FastAPI()
    app.include_router(subscriptions.router())
    render_refusals(app)
    app.add_middleware(_Gate, principal=principal)
    return app


class _Gate:
    """What the application does before it hands a request on."""

    def __init__(self, app: Any, principal: Principal) -> None:
        self._app = app
        self._principal = principal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        let_in(scope, self._principal)
        await self._app(scope, receive, send)


@pytest_asyncio.fixture
async def machine(database: Database) -> AsyncIterator[Subscriptions]:
    """One that hardly looks by itself, so that tests see what requests bring about."""
    machine = Subscriptions(database, base_url=BASE + "/", scan_interval=3600)
    await machine.start()
    yield machine
    await machine.stop()


@pytest_asyncio.fixture
async def http(machine: Subscriptions) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(machine))
    async with httpx.AsyncClient(transport=transport, base_url=f"{BASE}{ROOT}") as client:
        yield client


def code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert error["type"] == error["code"].lower()
    assert error["message"]
    return response.status_code, error["code"]


async def put(http: httpx.AsyncClient, id: str = "s", **change: Any) -> httpx.Response:
    return await http.put(f"/subscriptions/{quote(id, safe='')}", json={**PULL, **change})


async def test_subscriptions_are_listed_page_by_page(http: httpx.AsyncClient) -> None:
    assert (await http.get("/subscriptions")).json() == {"subscriptions": []}
    for id in ("c", "a", "b"):
        await put(http, id)
    whole = (await http.get("/subscriptions")).json()
    assert "next_cursor" not in whole
    alone = (await http.get("/subscriptions/a")).json()
    del alone["streams"]
    assert whole["subscriptions"][0] == alone
    first = (await http.get("/subscriptions", params={"limit": 2})).json()
    rest = (await http.get("/subscriptions", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [each["id"] for page in (first, rest) for each in page["subscriptions"]] == ["a", "b", "c"]
    assert "next_cursor" not in rest


@pytest.mark.parametrize(
    "asked", ["limit=0", "limit=1001", "limit=x", "limit=99999999999999999999", "cursor=", "cursor=%00"]
)
async def test_a_page_that_cannot_be_is_refused(http: httpx.AsyncClient, asked: str) -> None:
    assert code(await http.get(f"/subscriptions?{asked}")) == (400, "INVALID_REQUEST")


async def test_each_tenant_lists_its_own_subscriptions(machine: Subscriptions, http: httpx.AsyncClient) -> None:
    await put(http, "ours")
    transport = httpx.ASGITransport(application(machine, Principal("them", frozenset({"control"}), tenant="them")))
    async with httpx.AsyncClient(transport=transport, base_url=f"{BASE}{ROOT}") as them:
        assert (await them.get("/subscriptions")).json() == {"subscriptions": []}
        await put(them, "theirs")
        assert [each["id"] for each in (await them.get("/subscriptions")).json()["subscriptions"]] == ["theirs"]
    assert [each["id"] for each in (await http.get("/subscriptions")).json()["subscriptions"]] == ["ours"]


async def test_a_subscription_is_created_confirmed_read_and_deleted(http: httpx.AsyncClient, streams: Streams) -> None:
    await streams.create("runs/old", b"1")
    created = await put(http, lease_ttl_ms=1000, description="mine")
    assert created.status_code == 201
    document = created.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", document.pop("created_at"))
    assert document == {
        "id": "s",
        "subscription_id": "s",
        "type": "pull-wake",
        "pattern": "runs/*",
        "streams": [{"path": "runs/old", "link_type": "glob", "acked_offset": FIRST}],
        "wake_stream": "wake",
        "lease_ttl_ms": 1000,
        "status": "active",
        "description": "mine",
    }
    confirmed = await put(http, lease_ttl_ms=1000, description="mine")
    assert (confirmed.status_code, confirmed.json()) == (200, created.json())
    assert code(await put(http)) == (409, "SUBSCRIPTION_ALREADY_EXISTS")
    read = await http.get("/subscriptions/s")
    assert (read.status_code, read.json()) == (200, created.json())
    for _ in range(2):
        deleted = await http.delete("/subscriptions/s")
        assert (deleted.status_code, deleted.content) == (204, b"")
    assert code(await http.get("/subscriptions/s")) == (404, "SUBSCRIPTION_NOT_FOUND")


async def test_a_webhook_says_how_it_is_signed(http: httpx.AsyncClient) -> None:
    url = "https://worker.example/hook"
    response = await put(http, type="webhook", webhook={"url": url, "secret": "x"}, wake_stream=None)
    signing = response.json()["webhook"]["signing"]
    assert response.json()["webhook"] == {"url": url, "signing": signing}
    assert (signing["alg"], signing["jwks_url"]) == ("ed25519", f"{BASE}{ROOT}/jwks.json")
    jwks = await http.get("/jwks.json")
    assert jwks.headers["content-type"] == "application/jwk-set+json"
    assert jwks.headers["cache-control"] == "public, max-age=300"
    assert signing["kid"] in [key["kid"] for key in jwks.json()["keys"]]


async def test_a_body_that_is_no_subscription_is_refused(http: httpx.AsyncClient) -> None:
    for content in (b"", b"null", b"[]", b"7", b"{", b'{"type":"email"}', b'"\\ud800"', b"\xff"):
        assert code(await http.put("/subscriptions/s", content=content)) == (400, "INVALID_REQUEST")
    assert code(await http.get("/subscriptions/s")) == (404, "SUBSCRIPTION_NOT_FOUND")


async def test_an_unsafe_webhook_is_refused(http: httpx.AsyncClient) -> None:
    response = await put(http, type="webhook", webhook={"url": "http://10.0.0.1/hook"})
    assert code(response) == (400, "WEBHOOK_URL_REJECTED")


async def test_a_body_over_the_limit_is_refused(http: httpx.AsyncClient) -> None:
    assert (await http.put("/subscriptions/s", content=b" " * (MAX_BODY + 1))).status_code == 413


async def test_ids_that_are_none_are_refused(http: httpx.AsyncClient) -> None:
    for id in ("x" * 257, "a\0b", "a\nb"):
        assert code(await put(http, id)) == (400, "INVALID_REQUEST")
        address = f"/subscriptions/{quote(id)}"
        assert code(await http.get(address)) == (400, "INVALID_REQUEST")
        assert code(await http.post(f"{address}/claim", json={"worker": "w"})) == (400, "INVALID_REQUEST")


async def test_an_id_may_hold_what_a_url_must_encode(http: httpx.AsyncClient) -> None:
    assert (await put(http, "a b?ü#%")).json()["id"] == "a b?ü#%"


async def test_streams_are_linked_and_unlinked(http: httpx.AsyncClient) -> None:
    await put(http)
    assert (await http.post("/subscriptions/s/streams", json={"streams": ["/manual/a/", "b"]})).status_code == 204
    for encoded in ("manual%2Fa", "manual/a", "never/there"):
        assert (await http.delete(f"/subscriptions/s/streams/{encoded}")).status_code == 204
    document = (await http.get("/subscriptions/s")).json()
    assert document["streams"] == [{"path": "b", "link_type": "explicit", "acked_offset": START}]
    assert code(await http.post("/subscriptions/s/streams", json={"streams": "b"})) == (400, "INVALID_REQUEST")
    missing = await http.post("/subscriptions/none/streams", json={"streams": ["b"]})
    assert code(missing) == (404, "SUBSCRIPTION_NOT_FOUND")
    assert code(await http.delete("/subscriptions/none/streams/b")) == (404, "SUBSCRIPTION_NOT_FOUND")


async def test_a_worker_claims_acks_and_releases(http: httpx.AsyncClient, streams: Streams) -> None:
    await put(http)
    assert code(await http.post("/subscriptions/s/claim", json={"worker": "one"})) == (409, "NO_PENDING_WORK")
    await streams.create("runs/1", b"1", b"2")
    claimed = await http.post("/subscriptions/s/claim", json={"worker": "one"})
    assert claimed.status_code == 200
    claim = claimed.json()
    work = {"path": "runs/1", "link_type": "glob", "acked_offset": "-1", "has_pending": True}
    assert claim == {
        "wake_id": claim["wake_id"],
        "generation": 1,
        "token": claim["token"],
        "streams": [{**work, "tail_offset": "0000000000000000_0000000000000002"}],
        "lease_ttl_ms": 30_000,
    }
    busy = await http.post("/subscriptions/s/claim", json={"worker": "two"})
    assert code(busy) == (409, "ALREADY_CLAIMED")
    assert (busy.json()["error"]["current_holder"], busy.json()["error"]["generation"]) == ("one", 1)

    bearer = {"authorization": f"Bearer {claim['token']}"}
    wake = {"wake_id": claim["wake_id"], "generation": 1}
    acks = [{"stream": "runs/1", "offset": FIRST}]
    acked = await http.post("/subscriptions/s/ack", json={**wake, "acks": acks}, headers=bearer)
    assert (acked.status_code, acked.json()) == (200, {"ok": True, "next_wake": False})
    for offset in (START, "-1", "now", "0000000000000000_0000000000000003"):
        bad = {**wake, "acks": [{"stream": "runs/1", "offset": offset}]}
        assert code(await http.post("/subscriptions/s/ack", json=bad, headers=bearer)) == (409, "INVALID_OFFSET")
    released = await http.post("/subscriptions/s/release", json=wake, headers=bearer)
    assert (released.status_code, released.content) == (204, b"")
    for action in ("ack", "release", "callback"):
        stale = await http.post(f"/subscriptions/s/{action}", json={**wake, "done": True}, headers=bearer)
        assert code(stale) == (409, "FENCED")
    assert (await http.post("/subscriptions/s/claim", json={"worker": "two"})).json()["generation"] == 2


@pytest.mark.parametrize("action", ["ack", "release", "callback"])
async def test_without_the_right_token_nothing_is_settled(
    http: httpx.AsyncClient, streams: Streams, action: str
) -> None:
    for id in ("s", "other"):
        await put(http, id)
    await streams.create("runs/1", b"1")
    claims = [(await http.post(f"/subscriptions/{id}/claim", json={"worker": "w"})).json() for id in ("s", "other")]
    wake = {"wake_id": claims[0]["wake_id"], "generation": 1, "done": True}
    address = f"/subscriptions/s/{action}"
    for header in ({}, {"authorization": "Basic x"}, {"authorization": "Bearer x.y"}, {"authorization": "Bearer \xff"}):
        headers = {name.encode(): value.encode("latin-1") for name, value in header.items()}
        assert code(await http.post(address, json=wake, headers=headers)) == (401, "TOKEN_INVALID")
    others = {"authorization": f"Bearer {claims[1]['token']}"}
    assert code(await http.post(address, json=wake, headers=others)) == (401, "TOKEN_INVALID")
    missing = await http.post(f"/subscriptions/none/{action}", json=wake, headers=others)
    assert code(missing) == (404, "SUBSCRIPTION_NOT_FOUND")


async def test_a_token_that_has_expired_says_so(
    http: httpx.AsyncClient, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.subscriptions.signing.TOKEN_TTL", -10)
    await put(http)
    await streams.create("runs/1", b"1")
    claim = (await http.post("/subscriptions/s/claim", json={"worker": "w"})).json()
    wake = {"wake_id": claim["wake_id"], "generation": 1}
    bearer = {"authorization": f"Bearer {claim['token']}"}
    assert code(await http.post("/subscriptions/s/ack", json=wake, headers=bearer)) == (401, "TOKEN_EXPIRED")
    missing = await http.post("/subscriptions/none/ack", json=wake, headers=bearer)
    assert code(missing) == (404, "SUBSCRIPTION_NOT_FOUND")


async def test_a_callback_that_leaves_work_gets_the_next_wake_at_once(
    http: httpx.AsyncClient, machine: Subscriptions, streams: Streams, receiver: Receiver
) -> None:
    await put(http, type="webhook", webhook={"url": receiver.url})
    await streams.create("runs/1", b"1")
    # Nobody has told this Machine of the append: the wake is another Machine's, and so is its delivery.
    number = await streams.value("SELECT number FROM run_gateway.subscriptions")
    assert await streams.value("SELECT woken FROM run_gateway.wake_subscription($1, NULL)", number)
    await put(http, "any other change rings")
    await eventually(lambda: len(receiver.received) == 1)
    await idle(machine)
    wake = receiver.received[0].body
    address = wake["callback_url"].removeprefix(BASE)
    settled = await http.post(
        f"{BASE}{address}",
        json={"wake_id": wake["wake_id"], "generation": 1, "done": True},
        headers={"authorization": f"Bearer {wake['callback_token']}"},
    )
    assert settled.json() == {"ok": True, "next_wake": True}
    await eventually(lambda: len(receiver.received) == 2)


async def test_what_is_not_there_says_so(http: httpx.AsyncClient) -> None:
    for address in ("/", "", "/nothing", "/subscriptions/", "/subscriptions/s/nothing"):
        assert code(await http.get(f"{BASE}{ROOT}{address}")) == (404, "SUBSCRIPTION_NOT_FOUND")
    for method, address, allowed in (
        ("POST", "/subscriptions", "GET"),
        ("POST", "/subscriptions/s", "DELETE, GET, PUT"),
        ("GET", "/subscriptions/s/claim", "POST"),
        ("PUT", "/subscriptions/s/streams", "POST"),
        ("DELETE", "/jwks.json", "GET"),
    ):
        response = await http.request(method, address)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert (await http.options("/subscriptions/s")).status_code == 204


async def test_no_answer_is_kept_by_a_cache(http: httpx.AsyncClient) -> None:
    for response in (await put(http), await http.get("/subscriptions/none"), await http.delete("/subscriptions/s")):
        assert response.headers["cache-control"] == "no-store"


async def test_without_a_database_the_answer_is_503(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(*_: object, **__: object) -> object:
        raise Unavailable

    monkeypatch.setattr(Database, "acquire", unavailable)
    assert (await put(http)).status_code == 503
    assert (await http.get("/subscriptions/s")).status_code == 503


def test_openapi_describes_every_route(database_free: Subscriptions) -> None:
    document = application(database_free).openapi()
    operations = {
        (path.removeprefix(ROOT), method): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        ("/subscriptions", "get"),
        ("/subscriptions/{id}", "put"),
        ("/subscriptions/{id}", "get"),
        ("/subscriptions/{id}", "delete"),
        ("/subscriptions/{id}/streams", "post"),
        ("/subscriptions/{id}/streams/{path}", "delete"),
        ("/subscriptions/{id}/claim", "post"),
        ("/subscriptions/{id}/callback", "post"),
        ("/subscriptions/{id}/ack", "post"),
        ("/subscriptions/{id}/release", "post"),
        ("/jwks.json", "get"),
    }
    for (path, method), operation in operations.items():
        assert operation["summary"] and operation["description"]
        assert method not in ("put", "post") or "requestBody" in operation, path
        assert "422" not in operation["responses"], path  # the protocol has no such answer
    assert "$ref" not in str([operation.get("requestBody") for operation in operations.values()])


@pytest.fixture
def database_free() -> Subscriptions:
    return Subscriptions(Database("", pool_size=1, statement_timeout=1), base_url=BASE)
